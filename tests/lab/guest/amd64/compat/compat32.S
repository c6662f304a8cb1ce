/* A 32-bit process: known registers, then pause() through int $0x80. Built freestanding, at fixed addresses;
 * main.c of the workload says the same constants. */

	.section .park, "ax", @progbits
	.globl _start
_start:
	mov $0x08061000, %esp
	mov $0xb0b0b0b1, %ebx
	mov $0xc0c0c0c2, %ecx
	mov $0xd0d0d0d3, %edx
	mov $0x51515154, %esi
	mov $0xd1d1d1d5, %edi
	mov $0xeb9eb9e6, %ebp
	mov $29, %eax	/* pause */
	.org 62, 0x90
	int $0x80
	.globl parked
parked:
	jmp _start

	.section .stack, "aw", @nobits
	.skip 8192

	.section .note.GNU-stack, "", @progbits
