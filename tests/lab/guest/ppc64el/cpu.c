/* ppc64le: how registers are filled, and what the kernel shows of them. */
#include <stdio.h>
#include "lab.h"

#define CR1_TO_7 0xfffffffULL

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	unsigned i;

	for (i = 0; i < 32; i++)
		r->r[i] = mix64(seed + i);
	r->lr = mix64(seed + 100) & ~3ULL;
	r->ctr = mix64(seed + 101);
	r->cr = mix64(seed + 102) & 0xffffffff;
	r->xer = mix64(seed + 103) & 0xe0000000;	/* SO, OV, CA */
	r->vrsave = mix64(seed + 104) & 0xffffffff;
	r->fpscr = t->index & 3;	/* rounding */
	for (i = 0; i < 128; i++)
		r->vs[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	size_t i;

	r->r[0] = (u64)nr;
	for (i = 0; i < count; i++)
		r->r[3 + i] = args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->r[3] = value;
}

void read_bases(struct thread *t)
{
	__asm__("mr %0, 13" : "=r"(t->tls_base));
}

struct regs compat_regs(void)
{
	return (struct regs){ .ready = 0 };
}

void print_bases(const struct thread *t)
{
	printf(",\"tp\":\"%#llx\"", (long long)t->tls_base);
}

static bool zeroed(unsigned number)
{
	return number >= 9 && number <= 12;
}

/* What a system call keeps: not r9 to r12, ctr, xer and cr0 (system_call_common, arch/powerpc/kernel/interrupt_64.S). */
void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	bool call = entry == BY_SYSCALL || entry == BY_SYSCALL_DONE;
	unsigned i;

	printf(",\"%s\":{", key);
	for (i = 0; i < 32; i++)
		if (i != 3 && !(call && zeroed(i)))
			printf("\"r%u\":\"%#llx\",", i, (long long)r->r[i]);
	printf("\"r3\":\"%#llx\",", entry == BY_SYSCALL_DONE ? 0 : (long long)r->r[3]);
	if (call)
		printf("\"orig_gpr3\":\"%#llx\",", (long long)r->r[3]);
	else
		printf("\"ctr\":\"%#llx\",\"xer\":\"%#llx\",", (long long)r->ctr, (long long)r->xer);
	printf("\"%s\":\"%#llx\",", call ? "cr1to7" : "cr", (long long)(r->cr & (call ? CR1_TO_7 : ~0ULL)));
	printf("\"lr\":\"%#llx\",\"pc\":\"%#llx\"}", (long long)r->lr, (long long)r->pc);
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":16,\"fpscr\":\"%#llx\",\"vrsave\":\"%#llx\"}", key,
	       (long long)seed, (long long)r->fpscr, (long long)r->vrsave);
}
