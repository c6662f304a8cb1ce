/* The launcher: starts the processes of the workload, waits until every thread is where it belongs, prints the truth. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lab.h"

struct board *board;
u64 page_size, huge_page_size;

static const char *const worker_states[] = { "futex", "pipe", "poll", "epoll", "nanosleep", "sigsuspend", "select",
					     "accept", "recv", "msgrcv", "signal", "fault", "libc-cond", "spin",
					     "preempted", "preempted" };

void die(const char *what)
{
	printf("TRUTH {\"failed\":\"%s\",\"pid\":%d,\"errno\":%d}\n", what, getpid(), errno);
	fflush(stdout);
	_exit(1);
}

/* The calling thread itself parks. */
static void park_as(const char *state)
{
	thread_main(new_thread(state));
}

static void set_filter(const char *value)
{
	int fd = open("/proc/self/coredump_filter", O_WRONLY);

	if (write(fd, value, strlen(value)) < 0)
		die("coredump_filter");
	close(fd);
}

static void forked(void)
{
	set_filter("0x61\n");
	fork_cow_child();
	start_thread_in("futex");
	park_as("pause");
}

static void worker_threads(void)
{
	size_t i;

	spawn("lab-forked", forked);
	fork_cow_parent();
	for (i = 0; i < sizeof(worker_states) / sizeof(worker_states[0]); i++)
		start_thread_in(worker_states[i]);
	park_as("pause");
}

static void worker(void)
{
	make_memory();
	with_stack_area(worker_threads);
}

static void stopped(void)
{
	park_as("stopped");
}

static void traced(void)
{
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	park_as("traced");
}

static void vfork_parent(void)
{
	park_as("vfork");
}

static void zombie(void)
{
}

/* The leader ends, its thread stays. (pthread_exit would want libgcc_s.) */
static void dead_leader(void)
{
	start_thread_in("futex");
	syscall(SYS_exit, 0);
}

static bool at_rest(struct thread *t)
{
	u64 utime = 0;

	if (!t->regs.ready)
		return false;
	t->seen = task_state(t->pid, t->tid, &utime);
	return strchr(t->state->expect, t->seen) && (t->state->park != park_spin || utime >= 3);
}

static bool all_at_rest(unsigned count)
{
	unsigned i;

	for (i = 0; i < board->nthreads; i++)
		if (!at_rest(&board->threads[i]))
			return false;
	return board->nthreads == count;
}

static void wait_for_rest(unsigned others)
{
	unsigned count = sizeof(worker_states) / sizeof(worker_states[0]) + others, tries;

	for (tries = 0; tries < 600 && !all_at_rest(count); tries++)
		usleep(100000);
	usleep(500000);
	if (!all_at_rest(count))
		printf("TRUTH {\"failed\":\"not all at rest: %u of %u started\"}\n", board->nthreads, count);
}

static void *sleeper(void *arg)
{
	__atomic_fetch_add(&board->scale_ready, 1, __ATOMIC_SEQ_CST);
	for (;;)
		pause();
	return arg;
}

static void many_threads(void)
{
	pthread_attr_t attr;
	pthread_t id;
	int i;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (i = 0; i < 9; i++)
		if (pthread_create(&id, &attr, sleeper, NULL))
			die("pthread_create");
	sleeper(NULL);
}

static void spawn_quietly(void (*run)(void))
{
	if (fork())
		return;
	prctl(PR_SET_NAME, "lab-many");
	run();
}

/* count sleeping threads, ten a process. */
static void scale(unsigned count)
{
	unsigned i;

	for (i = 0; i < count / 10; i++)
		spawn_quietly(many_threads);
	while (board->scale_ready < count / 10 * 10)
		usleep(100000);
}

static void share_board(void)
{
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		die("board");
}

/* What a page table of the last level covers: an entry of 8 bytes a page. */
static void learn_page_sizes(void)
{
	page_size = (u64)sysconf(_SC_PAGESIZE);
	huge_page_size = page_size / 8 * page_size;
}

int main(int argc, char **argv)
{
	bool compat = !access("/bin/compat32", X_OK);

	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	learn_page_sizes();
	share_board();
	if (argc > 1)
		scale((unsigned)atoi(argv[1]));
	spawn("lab-worker", worker);
	spawn("lab-stopped", stopped);
	spawn("lab-traced", traced);
	spawn("lab-vfork", vfork_parent);
	spawn("lab-zombie", zombie);
	spawn("lab-deadlead", dead_leader);
	if (compat)
		spawn("lab-compat", become_compat);
	wait_for_rest(compat ? 8 : 7);
	print_truth();
	print_facts();
	printf("TRUTH {\"complete\":true}\n");
	fflush(stdout);
	close(open("/tmp/ready", O_CREAT | O_WRONLY, 0644));
	for (;;)
		pause();
}
