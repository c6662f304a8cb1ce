/* A 32-bit process: known registers, then pause() through __kernel_vsyscall, by the instruction that the vdso
 * has chosen for this CPU: sysenter or syscall. compat_regs() of ../../guest/amd64/cpu.c says the same constants. */

	.section .park, "ax", @progbits
	.globl _start
_start:
	mov (%esp), %eax		/* argc */
	lea 8(%esp, %eax, 4), %esi	/* the environment */
1:	lodsl
	test %eax, %eax
	jnz 1b
2:	lodsl				/* the auxiliary vector: type, value */
	mov (%esi), %edx
	add $4, %esi
	cmp $32, %eax			/* AT_SYSINFO */
	jne 2b
	mov %edx, entry
	mov $0x08061000, %esp
	mov $0xb0b0b0b1, %ebx
	mov $0xc0c0c0c2, %ecx
	mov $0xd0d0d0d3, %edx
	mov $0x51515154, %esi
	mov $0xd1d1d1d5, %edi
	mov $0xeb9eb9e6, %ebp
	push $0
	popf
	mov $29, %eax	/* pause */
	call *entry
	jmp _start

	.section .stack, "aw", @nobits
	.skip 4096
entry:
	.skip 4096

	.section .note.GNU-stack, "", @progbits
