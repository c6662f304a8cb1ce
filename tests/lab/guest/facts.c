/* What the launcher prints: TRUTH lines (JSON), then files of /proc between BEGIN and END. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lab.h"

static size_t slurp(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY);
	size_t have = 0;
	ssize_t n;

	while (fd >= 0 && have < size - 1 && (n = read(fd, buf + have, size - 1 - have)) > 0)
		have += (size_t)n;
	if (fd >= 0)
		close(fd);
	buf[have] = 0;
	return have;
}

/* State letter of /proc/PID/task/TID/stat, '?' when it is gone. */
char task_state(pid_t pid, pid_t tid, u64 *utime)
{
	char path[64], buf[1024], letter = '?', *p;
	unsigned long ticks = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	slurp(path, buf, sizeof(buf));
	p = strrchr(buf, ')');
	if (p)
		sscanf(p + 2, "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu", &letter, &ticks);
	if (utime)
		*utime = ticks;
	return letter;
}

static void print_frames(const struct thread *t)
{
	const char *inner = t->state->park_name;

	printf(",\"frames\":[\"%s\"", inner);
	if (t->state->entry == BY_COMPAT) {
		printf("]");
		return;
	}
	if (t->altstack)
		printf(",\"on_signal\",\"<signal>\",\"park_raise\",\"signal_body\"");
	printf(",\"level3\",\"level2\",\"level1\",\"thread_main\"]");
}

static void print_outer(const struct thread *t)
{
	if (!t->altstack)
		return;
	printf(",\"altstack\":{\"start\":\"%#llx\",\"size\":%llu}", (long long)t->altstack, (long long)t->altstack_size);
	print_regs("interrupted", &t->outer, BY_SYSCALL_DONE);
	print_vector("interrupted_vector", &t->outer, t->vec_seed + 64);
}

static void print_thread(const struct thread *t)
{
	printf("TRUTH {\"thread\":\"%s\",\"pid\":%d,\"tid\":%d,\"name\":\"%s\",\"seen\":\"%c\",\"expect\":\"%s\"",
	       t->state->name, t->pid, t->tid, t->name, t->seen, t->state->expect);
	printf(",\"entry\":%d,\"cpu\":%d", t->state->entry, t->state->cpu - 1);
	print_bases(t);
	printf(",\"tls_marker\":{\"address\":\"%#llx\",\"value\":\"%#llx\"}", (long long)t->tls_addr,
	       (long long)t->tls_value);
	print_frames(t);
	if (t->state->entry != BY_LIBC)
		print_regs("registers", &t->regs, t->state->entry);
	if (t->vec_seed && t->state->entry != BY_LIBC)
		print_vector("vector", &t->regs, t->vec_seed);
	print_outer(t);
	printf("}\n");
}

static void print_runs(const struct area *a)
{
	static const char *const formulas[] = { "mix64", "ramp64", "same64", "zero" };
	unsigned i;

	for (i = 0; i < a->nruns; i++)
		printf("%s{\"offset\":%llu,\"size\":%llu,\"formula\":\"%s\",\"seed\":\"%#llx\"}", i ? "," : "",
		       (long long)a->runs[i].offset, (long long)a->runs[i].size, formulas[a->runs[i].formula],
		       (long long)a->runs[i].seed);
}

/* One number a page: frame number when present, -1 when swapped, 0 when neither. Every 64th page of large areas. */
static void print_pages(const struct area *a)
{
	u64 i, entry, pages = a->size / page_size, step = pages > 64 ? 64 : 1;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", a->pid);
	fd = open(path, O_RDONLY);
	for (i = 0; i < pages; i += step) {
		if (pread(fd, &entry, 8, (off_t)((a->start / page_size + i) * 8)) != 8)
			entry = 0;
		printf("%s%lld", i ? "," : "",
		       entry >> 63 ? (long long)(entry & ((1ULL << 55) - 1)) : entry >> 62 & 1 ? -1LL : 0LL);
	}
	close(fd);
}

static void print_area(const struct area *a)
{
	printf("TRUTH {\"area\":\"%s\",\"pid\":%d,\"start\":\"%#llx\",\"size\":%llu,\"file\":\"%s\",\"attr\":\"%s\",\"runs\":[",
	       a->kind, a->pid, (long long)a->start, (long long)a->size, a->file, a->attr);
	print_runs(a);
	printf("],\"page_step\":%d,\"pages\":[", a->size / page_size > 64 ? 64 : 1);
	print_pages(a);
	printf("]}\n");
}

static void print_process(const struct process *p)
{
	char path[64], filter[32], letter = task_state(p->pid, p->pid, NULL);

	snprintf(path, sizeof(path), "/proc/%d/coredump_filter", p->pid);
	slurp(path, filter, sizeof(filter));
	filter[strcspn(filter, "\n")] = 0;
	printf("TRUTH {\"process\":\"%s\",\"pid\":%d,\"seen\":\"%c\",\"coredump_filter\":\"%s%s\"}\n", p->role, p->pid,
	       letter, *filter ? "0x" : "", filter);
}

void print_truth(void)
{
	unsigned i;

	printf("TRUTH {\"version\":1,\"page_size\":%llu,\"threads\":%u,\"areas\":%u,\"processes\":%u,\"launcher\":%d,\"vfork_child_rip\":\"%#llx\"}\n",
	       (long long)page_size, board->nthreads, board->nareas, board->nprocesses, getpid(), (long long)(uintptr_t)park_vfork_child_pc);
	for (i = 0; i < board->nprocesses; i++)
		print_process(&board->processes[i]);
	for (i = 0; i < board->nthreads; i++)
		print_thread(&board->threads[i]);
	for (i = 0; i < board->nareas; i++)
		print_area(&board->areas[i]);
}

static char big[1 << 20];

static void show(const char *path)
{
	size_t n = slurp(path, big, sizeof(big));

	printf("BEGIN %s\n%s", path, big);
	if (n && big[n - 1] != '\n')
		printf("\n");
	printf("END %s\n", path);
}

static void show_hex(const char *path)
{
	size_t i, n = slurp(path, big, sizeof(big));

	printf("BEGIN %s\n", path);
	for (i = 0; i < n; i++)
		printf("%02x", (unsigned char)big[i]);
	printf("\nEND %s\n", path);
}

static void show_of(pid_t pid, const char *file, void (*how)(const char *))
{
	char path[96];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	how(path);
}

static void show_process(pid_t pid)
{
	static const char *const text[] = { "maps", "status", "stat", "wchan", "coredump_filter" };
	static const char *const binary[] = { "auxv", "environ", "cmdline" };
	size_t i;

	for (i = 0; i < sizeof(text) / sizeof(text[0]); i++)
		show_of(pid, text[i], show);
	for (i = 0; i < sizeof(binary) / sizeof(binary[0]); i++)
		show_of(pid, binary[i], show_hex);
}

static void show_thread(const struct thread *t)
{
	static const char *const text[] = { "status", "stat", "syscall", "wchan", "stack" };
	char file[64];
	size_t i;

	for (i = 0; i < sizeof(text) / sizeof(text[0]); i++) {
		snprintf(file, sizeof(file), "task/%d/%s", t->tid, text[i]);
		show_of(t->pid, file, show);
	}
}

static void print_task(pid_t pid, pid_t tid)
{
	char path[64], buf[1024], *end, *comm, letter = '?';
	int ppid = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	slurp(path, buf, sizeof(buf));
	comm = strchr(buf, '(');
	end = strrchr(buf, ')');
	if (!comm || !end)
		return;
	*end = 0;
	sscanf(end + 2, "%c %d", &letter, &ppid);
	printf("%d %d %d %c %s\n", tid, pid, ppid, letter, comm + 1);
}

static void each_number(const char *folder, void (*seen)(pid_t number, pid_t outer), pid_t outer)
{
	DIR *dir = opendir(folder);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
			seen(atoi(e->d_name), outer);
	if (dir)
		closedir(dir);
}

static void task_in(pid_t tid, pid_t pid)
{
	print_task(pid, tid);
}

static void tasks_of(pid_t pid, pid_t outer)
{
	char folder[64];

	(void)outer;
	snprintf(folder, sizeof(folder), "/proc/%d/task", pid);
	each_number(folder, task_in, pid);
}

/* tid tgid ppid state comm, a line a thread. */
static void show_tasks(void)
{
	printf("BEGIN tasks\n");
	each_number("/proc", tasks_of, 0);
	printf("END tasks\n");
}

static bool wanted_symbol(const char *line)
{
	static const char *const names[] = { " _text\n", " init_task\n", " init_mm\n", " jiffies\n", " linux_banner\n",
					     " zram_", " saved_command_line\n" };
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strstr(line, names[i]))
			return true;
	return false;
}

static void show_kallsyms(void)
{
	FILE *f = fopen("/proc/kallsyms", "r");
	char line[512];

	printf("BEGIN /proc/kallsyms\n");
	while (f && fgets(line, sizeof(line), f))
		if (wanted_symbol(line))
			fputs(line, stdout);
	printf("END /proc/kallsyms\n");
	if (f)
		fclose(f);
}

void print_facts(void)
{
	static const char *const files[] = { "/proc/meminfo", "/proc/modules", "/proc/uptime", "/proc/loadavg",
		"/proc/cmdline", "/proc/version", "/proc/iomem", "/proc/sys/kernel/tainted", "/proc/swaps", "/proc/mounts",
		"/proc/filesystems", "/proc/interrupts", "/proc/devices", "/proc/slabinfo", "/proc/vmstat",
		"/proc/zoneinfo", "/proc/buddyinfo", "/proc/net/tcp", "/proc/net/unix", "/proc/sysvipc/shm",
		"/proc/sysvipc/sem", "/proc/sysvipc/msg", "/proc/timer_list", "/proc/cpuinfo",
		"/proc/sys/kernel/core_pattern", "/proc/vmallocinfo" };
	unsigned i;

	show_tasks();
	for (i = 0; i < board->nprocesses; i++)
		show_process(board->processes[i].pid);
	for (i = 0; i < board->nthreads; i++)
		show_thread(&board->threads[i]);
	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		show(files[i]);
	show_kallsyms();
}
