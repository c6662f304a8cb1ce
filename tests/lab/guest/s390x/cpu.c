/* s390x: how registers are filled, and what the kernel shows of them. */
#include <stdio.h>
#include "lab.h"

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	unsigned i;

	for (i = 0; i < 15; i++)
		r->r[i] = mix64(seed + i);
	r->cc = mix64(seed + 100) & 0x30000000;
	r->fpc = (u64)(t->index & 3) << 32;	/* rounding, in the word's upper half */
	for (i = 0; i < 16; i++)
		r->f[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	size_t i;

	r->r[1] = (u64)nr;
	for (i = 0; i < count; i++)
		r->r[2 + i] = args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->r[2] = value;
}

/* The thread pointer is split over access registers 0 and 1. */
void read_bases(struct thread *t)
{
	uint32_t high, low;

	__asm__("ear %0, %%a0" : "=d"(high));
	__asm__("ear %0, %%a1" : "=d"(low));
	t->tls_base = (u64)high << 32 | low;
}

struct regs compat_regs(void)
{
	return (struct regs){ .ready = 0 };
}

void print_bases(const struct thread *t)
{
	printf(",\"acr01\":\"%#llx\"", (long long)t->tls_base);
}

/* r2 and orig_gpr2 as __do_syscall() leaves them (arch/s390/kernel/syscall.c). */
void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	bool call = entry == BY_SYSCALL || entry == BY_SYSCALL_DONE;
	u64 r2 = entry == BY_SYSCALL ? (u64)-38 : entry == BY_SYSCALL_DONE ? 0 : r->r[2];
	unsigned i;

	printf(",\"%s\":{", key);
	for (i = 0; i < 16; i++)
		printf("\"r%u\":\"%#llx\",", i, (long long)(i == 2 ? r2 : r->r[i]));
	if (call)
		printf("\"orig_gpr2\":\"%#llx\",", (long long)r->r[2]);
	printf("\"cc\":\"%#llx\",\"pc\":\"%#llx\"}", (long long)r->cc, (long long)r->pc);
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":16,\"fpc\":\"%#llx\"}", key, (long long)seed,
	       (long long)(r->fpc >> 32));
}
