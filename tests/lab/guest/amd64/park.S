/* Parking functions: load every register with the values of struct regs (%rdi), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

.macro save reg
	push %\reg
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset \reg, 0
.endm

.macro restore reg
	pop %\reg
	.cfi_adjust_cfa_offset -8
	.cfi_restore \reg
.endm

.macro load_ymm n
	vmovdqu R_YMM + 32 * \n(%rax), %ymm\n
.endm

.macro load_xmm n
	movdqu R_YMM + 32 * \n(%rax), %xmm\n
.endm

/* Label 9 is where the thread's rip will be seen. */
.macro enter name
	.globl \name
	.type \name, @function
	.p2align 4
\name:
	.cfi_startproc
	save rbx
	save rbp
	save r12
	save r13
	save r14
	save r15
	mov %rdi, %rax
	cmpq $0, R_AVX(%rax)
	je 1f
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	load_ymm \n
	.endr
	jmp 2f
1:
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	load_xmm \n
	.endr
2:
	fninit
	fldcw R_FCW(%rax)
	fildq R_ST0(%rax)
	ldmxcsr R_MXCSR(%rax)
	pushq R_RFLAGS(%rax)
	.cfi_adjust_cfa_offset 8
	popfq
	.cfi_adjust_cfa_offset -8
	/* From here on only moves: the flags stay. */
	mov %rsp, R_RSP(%rax)
	lea 9f(%rip), %rcx
	mov %rcx, R_RIP(%rax)
	mov R_RBX(%rax), %rbx
	mov R_RBP(%rax), %rbp
	mov R_R8(%rax), %r8
	mov R_R9(%rax), %r9
	mov R_R10(%rax), %r10
	mov R_R12(%rax), %r12
	mov R_R13(%rax), %r13
	mov R_R14(%rax), %r14
	mov R_R15(%rax), %r15
	mov R_RDI(%rax), %rdi
	mov R_RSI(%rax), %rsi
	mov R_RDX(%rax), %rdx
	mov R_RCX(%rax), %rcx
	mov R_R11(%rax), %r11
	movq $1, R_READY(%rax)
	mov R_RAX(%rax), %rax
.endm

.macro leave_to_caller name
	fninit
	cld
	restore r15
	restore r14
	restore r13
	restore r12
	restore rbp
	restore rbx
	ret
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	syscall
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	syscall
9:
	test %eax, %eax
	jnz 4f
3:
	mov $SYS_pause, %eax
	syscall
	.globl park_vfork_child_pc
park_vfork_child_pc:
	jmp 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	mov (%rdi), %rsi
	leave_to_caller park_fault

	enter park_spin
9:
	jmp 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", @progbits
