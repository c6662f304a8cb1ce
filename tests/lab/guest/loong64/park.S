/* Parking functions: load every register with the values of struct regs (a0), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

.macro save_r n, at
	st.d $r\n, $sp, \at
	.cfi_offset \n, \at - 96
.endm

.macro restore_r n, at
	ld.d $r\n, $sp, \at
	.cfi_restore \n
.endm

.macro load_r n
	ld.d $r\n, $a0, R_R + 8 * \n
.endm

.macro load_f n
	fld.d $f\n, $a0, R_F + 8 * \n
.endm

.macro load_fcc n
	srli.d $t1, $t0, \n
	movgr2cf $fcc\n, $t1
.endm

/* Label 9 is where the thread's pc will be seen. */
.macro enter name
	.globl \name
	.type \name, @function
	.balign 8
\name:
	.cfi_startproc
	addi.d $sp, $sp, -96
	.cfi_def_cfa_offset 96
	save_r 1, 88
	save_r 22, 80
	save_r 23, 72
	save_r 24, 64
	save_r 25, 56
	save_r 26, 48
	save_r 27, 40
	save_r 28, 32
	save_r 29, 24
	save_r 30, 16
	save_r 31, 8
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_f \n
	.endr
	ld.d $t0, $a0, R_FCSR
	movgr2fcsr $fcsr0, $t0
	ld.d $t0, $a0, R_FCC
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7
	load_fcc \n
	.endr
	st.d $tp, $a0, R_R + 16
	st.d $sp, $a0, R_R + 24
	st.d $r21, $a0, R_R + 168
	la.pcrel $t0, 9f
	st.d $t0, $a0, R_PC
	li.d $t0, 1
	st.d $t0, $a0, R_READY
	.irp n, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_r \n
	.endr
	load_r 4
.endm

.macro leave_to_caller name
	restore_r 1, 88
	restore_r 22, 80
	restore_r 23, 72
	restore_r 24, 64
	restore_r 25, 56
	restore_r 26, 48
	restore_r 27, 40
	restore_r 28, 32
	restore_r 29, 24
	restore_r 30, 16
	restore_r 31, 8
	addi.d $sp, $sp, 96
	.cfi_def_cfa_offset 0
	ret
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	syscall 0
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	syscall 0
9:
	bnez $a0, 4f
3:
	li.d $a0, 0
	li.d $a1, 0
	li.d $a2, 0
	li.d $a3, 0
	li.d $a7, SYS_ppoll
	syscall 0
	.globl park_vfork_child_pc
park_vfork_child_pc:
	b 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	ld.d $a1, $a0, 0
	leave_to_caller park_fault

	enter park_spin
9:
	b 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", @progbits
