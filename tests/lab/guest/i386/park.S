/* Parking functions: load every register with the values of struct regs (first argument), then enter the kernel
 * for good. Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"

.macro save reg
	push %\reg
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset \reg, 0
.endm

.macro restore reg
	pop %\reg
	.cfi_adjust_cfa_offset -4
	.cfi_restore \reg
.endm

.macro load_xmm n
	movdqu R_XMM + 16 * \n(%eax), %xmm\n
.endm

/* Label 9 is where the thread's eip will be seen. */
.macro enter name
	.globl \name
	.type \name, @function
	.p2align 4
\name:
	.cfi_startproc
	save ebx
	save ebp
	save esi
	save edi
	call 1f
	.cfi_adjust_cfa_offset 4
1:
	pop %ecx
	.cfi_adjust_cfa_offset -4
	lea 9f - 1b(%ecx), %ecx
	mov 20(%esp), %eax
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7
	load_xmm \n
	.endr
	fninit
	fldcw R_FCW(%eax)
	fildq R_ST0(%eax)
	ldmxcsr R_MXCSR(%eax)
	pushl R_EFLAGS(%eax)
	.cfi_adjust_cfa_offset 4
	popfl
	.cfi_adjust_cfa_offset -4
	/* From here on only moves: the flags stay. */
	mov %esp, R_ESP(%eax)
	mov %ecx, R_EIP(%eax)
	mov R_EBX(%eax), %ebx
	mov R_ECX(%eax), %ecx
	mov R_EDX(%eax), %edx
	mov R_ESI(%eax), %esi
	mov R_EDI(%eax), %edi
	mov R_EBP(%eax), %ebp
	movl $1, R_READY(%eax)
	mov R_EAX(%eax), %eax
.endm

.macro leave_to_caller name
	fninit
	cld
	restore edi
	restore esi
	restore ebp
	restore ebx
	ret
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	int $0x80
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	int $0x80
9:
	test %eax, %eax
	jnz 4f
3:
	mov $SYS_pause, %eax
	int $0x80
	.globl park_vfork_child_pc
park_vfork_child_pc:
	jmp 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	mov (%ebx), %esi
	leave_to_caller park_fault

	enter park_spin
9:
	jmp 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", @progbits
