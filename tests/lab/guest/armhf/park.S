/* Parking functions: load every register with the values of struct regs (r0), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

	.syntax unified
	.arm
	.fpu neon

.macro load_r n
	ldr r\n, [r0, #R_R + 4 * \n]
.endm

/* Label 9 is where the thread's pc will be seen. */
.macro enter name
	.globl \name
	.type \name, %function
	.p2align 4
\name:
	.cfi_startproc
	push {r4-r11, lr}
	.cfi_def_cfa_offset 36
	.cfi_offset 4, -36
	.cfi_offset 5, -32
	.cfi_offset 6, -28
	.cfi_offset 7, -24
	.cfi_offset 8, -20
	.cfi_offset 9, -16
	.cfi_offset 10, -12
	.cfi_offset 11, -8
	.cfi_offset 14, -4
	add r1, r0, #R_D
	vldmia r1!, {d0-d15}
	vldmia r1!, {d16-d31}
	ldr r1, [r0, #R_FPSCR]
	vmsr fpscr, r1
	ldr r1, [r0, #R_CPSR]
	msr CPSR_f, r1
	/* From here on only moves: the flags stay. */
	str sp, [r0, #R_R + 4 * 13]
	adr r1, 9f
	str r1, [r0, #R_R + 4 * 15]
	mov r1, #1
	str r1, [r0, #R_READY]
	.irp n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14
	load_r \n
	.endr
	ldr r0, [r0, #R_R]
.endm

.macro leave_to_caller name
	pop {r4-r11, pc}
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	svc #0
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	svc #0
9:
	cmp r0, #0
	bne 4f
3:
	mov r7, #SYS_pause
	svc #0
	.globl park_vfork_child_pc
park_vfork_child_pc:
	b 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	ldr r1, [r0]
	leave_to_caller park_fault

	enter park_spin
9:
	b 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", %progbits
