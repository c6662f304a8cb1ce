/* 32-bit ARM: how registers are filled, and what the kernel shows of them. */
#include <stdio.h>
#include "lab.h"

enum { R7 = 7, SP = 13, PC = 15 };

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	unsigned i;

	for (i = 0; i < 15; i++)
		r->r[i] = (uint32_t)mix64(seed + i);
	r->cpsr = (uint32_t)mix64(seed + 100) & 0xf0000000;
	r->fpscr = (t->index & 0x1f) | (t->index & 3) << 22;	/* cumulative exception flags, rounding */
	for (i = 0; i < 32; i++)
		r->d[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	size_t i;

	r->r[R7] = (uint32_t)nr;
	for (i = 0; i < count; i++)
		r->r[i] = (uint32_t)args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->r[0] = (uint32_t)value;
}

void read_bases(struct thread *t)
{
	uint32_t base;

	__asm__("mrc p15, 0, %0, c13, c0, 3" : "=r"(base));
	t->tls_base = base;
}

struct regs compat_regs(void)
{
	return (struct regs){ .ready = 0 };
}

void print_bases(const struct thread *t)
{
	printf(",\"tp\":\"%#llx\"", (long long)t->tls_base);
}

/* orig_r0 as vector_swi leaves it (arch/arm/kernel/entry-common.S). */
void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	unsigned i;

	printf(",\"%s\":{\"r0\":\"%#x\"", key, entry == BY_SYSCALL_DONE ? 0 : r->r[0]);
	for (i = 1; i < SP; i++)
		printf(",\"r%u\":\"%#x\"", i, r->r[i]);
	printf(",\"sp\":\"%#x\",\"lr\":\"%#x\",\"nzcv\":\"%#x\"", r->r[SP], r->r[SP + 1], r->cpsr);
	if (entry != BY_EXCEPTION)
		printf(",\"orig_r0\":\"%#x\"", r->r[0]);
	printf(",\"pc\":\"%#x\"}", r->r[PC]);
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":16,\"fpscr\":\"%#x\"}", key, (long long)seed, r->fpscr);
}
