/* Parking functions: load every register with the values of struct regs (r3), then enter the kernel for good.
 * Each one has call frame information, so a debugger walks from it to its caller. */
#define __ASSEMBLER__ 1
#include "lab.h"
#include <sys/syscall.h>

#define FRAME 176
#define LR 65
#define CR 70

.macro save_r n
	std \n, 32 + 8 * (\n - 14)(1)
	.cfi_offset \n, 32 + 8 * (\n - 14) - FRAME
.endm

.macro restore_r n
	ld \n, 32 + 8 * (\n - 14)(1)
	.cfi_restore \n
.endm

.macro load_r n
	ld \n, R_R + 8 * \n(3)
.endm

.macro load_vs n
	li 5, 16 * \n
	lxvd2x \n, 4, 5
.endm

.macro move_to instruction, at
	ld 4, \at(3)
	\instruction 4
.endm

/* Label 9 is where the thread's pc will be seen. */
.macro enter name
	.globl \name
	.type \name, @function
	.balign 16
\name:
	.cfi_startproc
	mflr 0
	std 0, 16(1)
	mfcr 0
	stw 0, 8(1)
	stdu 1, -FRAME(1)
	.cfi_def_cfa_offset FRAME
	.cfi_offset LR, 16
	.cfi_offset CR, 8
	.irp n, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	save_r \n
	.endr
	lfd 0, R_FPSCR(3)
	mtfsf 0xff, 0
	addi 4, 3, R_VS
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_vs \n
	.endr
	.irp n, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63
	load_vs \n
	.endr
	ld 4, R_VRSAVE(3)
	mtspr 256, 4
	std 1, R_R + 8(3)
	std 13, R_R + 104(3)
	bcl 20, 31, 8f
8:
	mflr 4
	addi 4, 4, 9f - 8b
	std 4, R_PC(3)
	li 4, 1
	std 4, R_READY(3)
	move_to mtlr, R_LR
	move_to mtctr, R_CTR
	move_to mtxer, R_XER
	move_to mtcr, R_CR
	.irp n, 0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	load_r \n
	.endr
	load_r 3
.endm

.macro leave_to_caller name
	.irp n, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	restore_r \n
	.endr
	addi 1, 1, FRAME
	.cfi_def_cfa_offset 0
	lwz 0, 8(1)
	mtcr 0
	.cfi_restore CR
	ld 0, 16(1)
	mtlr 0
	.cfi_restore LR
	blr
	.cfi_endproc
	.size \name, . - \name
.endm

.macro park_syscall name
	enter \name
	sc
9:
	leave_to_caller \name
.endm

	.text
	.irp name, futex, read, poll, epoll, nanosleep, pause, sigsuspend, select, accept, recv, msgrcv, raise, handler, stop
	park_syscall park_\name
	.endr

/* The child of vfork shares this stack: it only waits, so the parent stays in the kernel. */
	enter park_vfork
	sc
9:
	cmpdi 3, 0
	bne 4f
3:
	li 0, SYS_pause
	sc
	.globl park_vfork_child_pc
park_vfork_child_pc:
	b 3b
4:
	leave_to_caller park_vfork

	enter park_fault
9:
	ld 4, 0(3)
	leave_to_caller park_fault

	enter park_spin
9:
	b 9b
	leave_to_caller park_spin

	.section .note.GNU-stack, "", @progbits
