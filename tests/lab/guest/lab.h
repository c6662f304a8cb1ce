/* What the parts of the guest workload share. See ../README.md. */
#ifndef LAB_H
#define LAB_H

/* Offsets into struct regs, for park.S. */
#define R_RBX 0
#define R_RBP 8
#define R_R8 16
#define R_R9 24
#define R_R10 32
#define R_R12 40
#define R_R13 48
#define R_R14 56
#define R_R15 64
#define R_RDI 72
#define R_RSI 80
#define R_RDX 88
#define R_RCX 96
#define R_R11 104
#define R_RAX 112
#define R_RFLAGS 120
#define R_RSP 128
#define R_RIP 136
#define R_READY 144
#define R_AVX 152
#define R_ST0 160
#define R_MXCSR 168
#define R_FCW 172
#define R_YMM 176

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef uint64_t u64;

/* Loaded by a parking function; rsp, rip and ready are stored by it. */
struct regs {
	u64 rbx, rbp, r8, r9, r10, r12, r13, r14, r15, rdi, rsi, rdx, rcx, r11, rax, rflags;
	u64 rsp, rip, ready, avx;
	int64_t st0;
	uint32_t mxcsr;
	uint16_t fcw, pad;
	u64 ymm[64];
};

_Static_assert(offsetof(struct regs, rax) == R_RAX, "park.S");
_Static_assert(offsetof(struct regs, rip) == R_RIP, "park.S");
_Static_assert(offsetof(struct regs, ymm) == R_YMM, "park.S");

typedef long park_fn(struct regs *);
park_fn park_futex, park_read, park_poll, park_epoll, park_nanosleep, park_pause, park_sigsuspend, park_select,
	park_accept, park_recv, park_msgrcv, park_raise, park_handler, park_stop, park_vfork, park_fault, park_spin;
extern char park_vfork_child_pc[];

/* How the thread came into the kernel: what rax, rcx, r11 and orig_rax then hold. */
enum entry { BY_SYSCALL, BY_SYSCALL_DONE, BY_EXCEPTION, BY_LIBC, BY_INT80 };

struct thread;

struct state {
	const char *name;
	park_fn *park;              /* NULL: body parks by itself */
	const char *park_name;
	void (*setup)(struct thread *);
	enum entry entry;
	const char *expect;         /* acceptable state letters of /proc/TID/stat */
	void (*body)(struct thread *);
	int cpu, nice;              /* cpu + 1, or 0 for any */
};

struct thread {
	const struct state *state;
	pid_t pid, tid;
	char name[16];
	char seen;                  /* state letter the launcher saw */
	unsigned index;
	u64 fs_base, gs_base, tls_addr, tls_value, vec_seed;
	struct regs regs, outer;    /* outer: the context a signal interrupted */
	u64 altstack, altstack_size;
	unsigned word;              /* futex word; scratch below: memory of system calls */
	char scratch[256];
};

enum formula { MIX64, RAMP64, SAME64, ZERO };

struct run {
	u64 offset, size, seed;
	enum formula formula;
};

struct area {
	char kind[24], file[40], attr[40];
	pid_t pid;
	u64 start, size, file_offset;
	unsigned nruns;
	struct run runs[6];
};

struct process {
	char role[16];
	pid_t pid;
};

#define MAX_THREADS 48
#define MAX_AREAS 64
#define MAX_PROCESSES 16

/* One shared mapping: every process of the workload writes its truth here, the launcher prints it. */
struct board {
	unsigned nthreads, nareas, nprocesses, scale_ready;
	struct thread threads[MAX_THREADS];
	struct area areas[MAX_AREAS];
	struct process processes[MAX_PROCESSES];
};

extern struct board *board;
extern const struct state states[];
extern __thread u64 tls_marker;

u64 mix64(u64 x);
void die(const char *what);

/* states.c */
struct thread *new_thread(const char *state);
void start_thread_in(const char *state);
void become_compat(void);
void *thread_main(void *thread);
pid_t spawn(const char *role, void (*run)(void));

/* memory.c */
void make_memory(void);
void with_stack_area(void (*then)(void));
void fork_cow_child(void);
void fork_cow_parent(void);

/* facts.c */
void print_truth(void);
void print_facts(void);
char task_state(pid_t pid, pid_t tid, u64 *utime);
#endif
#endif
