/* arm64: how registers are filled, and what the kernel shows of them. */
#include <stdio.h>
#include "lab.h"

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	unsigned i;

	for (i = 0; i < 31; i++)
		r->x[i] = mix64(seed + i);
	r->nzcv = mix64(seed + 100) & 0xf0000000;
	r->fpsr = t->index & 0x1f;	/* cumulative exception flags */
	r->fpcr = (u64)(t->index & 3) << 22;	/* rounding */
	for (i = 0; i < 64; i++)
		r->v[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	size_t i;

	r->x[8] = (u64)nr;
	for (i = 0; i < count; i++)
		r->x[i] = args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->x[0] = value;
}

void read_bases(struct thread *t)
{
	__asm__("mrs %0, tpidr_el0" : "=r"(t->tls_base));
}

/* What compat/compat32.S loads; x15 is the stack pointer's place in the kernel's pt_regs. */
struct regs compat_regs(void)
{
	struct regs r = { .pc = 0x8050040, .ready = 1 };
	unsigned i;

	for (i = 0; i < 15; i++)
		r.x[i] = 0xa0a0a000 + i;
	r.x[7] = 29;
	r.x[13] = 0x8061000;
	return r;
}

void print_bases(const struct thread *t)
{
	printf(",\"tpidr\":\"%#llx\"", (long long)t->tls_base);
}

/* orig_x0 and syscallno as el0_svc_common() leaves them (arch/arm64/kernel/syscall.c). */
void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	bool call = entry != BY_EXCEPTION;
	unsigned i, count = entry == BY_COMPAT ? 15 : 31;
	u64 x0 = entry == BY_SYSCALL_DONE ? 0 : r->x[0];

	printf(",\"%s\":{\"x0\":\"%#llx\"", key, (long long)x0);
	for (i = 1; i < count; i++)
		printf(",\"x%u\":\"%#llx\"", i, (long long)r->x[i]);
	if (entry != BY_COMPAT)
		printf(",\"sp\":\"%#llx\",\"nzcv\":\"%#llx\"", (long long)r->sp, (long long)r->nzcv);
	if (call)
		printf(",\"orig_x0\":\"%#llx\",\"syscallno\":\"%#llx\"", (long long)r->x[0],
		       (long long)r->x[entry == BY_COMPAT ? 7 : 8]);
	printf(",\"pc\":\"%#llx\"}", (long long)r->pc);
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":16,\"fpsr\":\"%#llx\",\"fpcr\":\"%#llx\"}", key,
	       (long long)seed, (long long)r->fpsr, (long long)r->fpcr);
}
