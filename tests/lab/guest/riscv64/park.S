/* Parking functions: load every register with the values of struct regs (a0), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

.macro save_x n, at
	sd x\n, \at(sp)
	.cfi_offset x\n, \at - 112
.endm

.macro restore_x n, at
	ld x\n, \at(sp)
	.cfi_restore x\n
.endm

.macro load_x n
	ld x\n, R_X + 8 * \n (a0)
.endm

.macro load_f n
	fld f\n, R_F + 8 * \n (a0)
.endm

/* Label 9 is where the thread's pc will be seen. */
.macro enter name
	.globl \name
	.type \name, @function
	.balign 8
\name:
	.cfi_startproc
	addi sp, sp, -112
	.cfi_def_cfa_offset 112
	save_x 1, 104
	save_x 8, 96
	save_x 9, 88
	save_x 18, 80
	save_x 19, 72
	save_x 20, 64
	save_x 21, 56
	save_x 22, 48
	save_x 23, 40
	save_x 24, 32
	save_x 25, 24
	save_x 26, 16
	save_x 27, 8
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_f \n
	.endr
	ld t0, R_FCSR(a0)
	fscsr t0
	sd sp, R_X + 16(a0)
	sd gp, R_X + 24(a0)
	sd tp, R_X + 32(a0)
	lla t0, 9f
	sd t0, R_PC(a0)
	li t0, 1
	sd t0, R_READY(a0)
	.irp n, 1, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_x \n
	.endr
	load_x 10
.endm

.macro leave_to_caller name
	restore_x 1, 104
	restore_x 8, 96
	restore_x 9, 88
	restore_x 18, 80
	restore_x 19, 72
	restore_x 20, 64
	restore_x 21, 56
	restore_x 22, 48
	restore_x 23, 40
	restore_x 24, 32
	restore_x 25, 24
	restore_x 26, 16
	restore_x 27, 8
	addi sp, sp, 112
	.cfi_def_cfa_offset 0
	ret
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	ecall
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	ecall
9:
	bnez a0, 4f
3:
	li a0, 0
	li a1, 0
	li a2, 0
	li a3, 0
	li a7, SYS_ppoll
	ecall
	.globl park_vfork_child_pc
park_vfork_child_pc:
	j 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	ld a1, 0(a0)
	leave_to_caller park_fault

	enter park_spin
9:
	j 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", @progbits
