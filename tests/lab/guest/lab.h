/* What the parts of the guest workload share. See ../README.md. */
#ifndef LAB_H
#define LAB_H

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef uint64_t u64;

#endif
#include "cpu.h" /* struct regs and the offsets into it, for park.S: of the architecture */

#ifndef __ASSEMBLER__
typedef long park_fn(struct regs *);
park_fn park_futex, park_read, park_poll, park_epoll, park_nanosleep, park_pause, park_sigsuspend, park_select,
	park_accept, park_recv, park_msgrcv, park_raise, park_handler, park_stop, park_vfork, park_fault, park_spin;
extern char park_vfork_child_pc[];

/* How the thread came into the kernel: what the registers of system calls then hold. */
enum entry { BY_SYSCALL, BY_SYSCALL_DONE, BY_EXCEPTION, BY_LIBC, BY_COMPAT };

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
	u64 tls_base, other_base, tls_addr, tls_value, vec_seed;
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
extern u64 page_size, huge_page_size;

u64 mix64(u64 x);
void die(const char *what);

/* cpu.c of the architecture. other_base: of a second segment or thread register, if there is one. */
void fill_regs(struct thread *t, struct regs *r, unsigned salt);
void set_call(struct regs *r, long nr, const u64 *args, size_t count);
void set_argument(struct regs *r, u64 value);
void read_bases(struct thread *t);
struct regs compat_regs(void);
void print_bases(const struct thread *t);
void print_regs(const char *key, const struct regs *r, enum entry entry);
void print_vector(const char *key, const struct regs *r, u64 seed);

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
