/* A 32-bit process: known registers, then pause(). Built freestanding, at fixed addresses; cpu.c says the same
 * constants. */

	.arch armv7-a
	.arm
	.section .park, "ax", %progbits
	.globl _start
_start:
	ldr sp, =0x08061000
	ldr r14, =0xa0a0a00e
	mov r7, #29	/* pause */
	ldr r12, =0xa0a0a00c
	.irp n, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10
	ldr r\n, =0xa0a0a000 + \n
	.endr
	ldr r11, =0xa0a0a00b
	.org 60
	svc #0
	.globl parked
parked:
	b _start
	.ltorg

	.section .stack, "aw", %nobits
	.skip 8192

	.section .note.GNU-stack, "", %progbits
