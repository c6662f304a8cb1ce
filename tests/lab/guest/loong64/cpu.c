/* loongarch64: how registers are filled, and what the kernel shows of them. */
#include <stdio.h>
#include "lab.h"

enum { A0 = 4, A7 = 11, T0 = 12, T8 = 20 };

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	unsigned i;

	for (i = 1; i < 32; i++)
		r->r[i] = mix64(seed + i);
	r->fcsr = (u64)(t->index & 3) << 8;	/* rounding */
	r->fcc = mix64(seed + 100) & 0xff;
	for (i = 0; i < 32; i++)
		r->f[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	size_t i;

	r->r[A7] = (u64)nr;
	for (i = 0; i < count; i++)
		r->r[A0 + i] = args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->r[A0] = value;
}

void read_bases(struct thread *t)
{
	__asm__("move %0, $tp" : "=r"(t->tls_base));
}

struct regs compat_regs(void)
{
	return (struct regs){ .ready = 0 };
}

void print_bases(const struct thread *t)
{
	printf(",\"tp\":\"%#llx\"", (long long)t->tls_base);
}

/* While a call is not done the kernel has its own in a0 (do_syscall(), arch/loongarch/kernel/syscall.c); it
 * never saves the temporaries (handle_syscall() in entry.S). */
void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	bool call = entry == BY_SYSCALL || entry == BY_SYSCALL_DONE;
	unsigned i;

	printf(",\"%s\":{", key);
	for (i = 1; i < 32; i++)
		if (i != A0 && !(call && i >= T0 && i <= T8))
			printf("\"r%u\":\"%#llx\",", i, (long long)r->r[i]);
	if (entry != BY_SYSCALL)
		printf("\"r4\":\"%#llx\",", entry == BY_SYSCALL_DONE ? 0 : (long long)r->r[A0]);
	if (entry == BY_SYSCALL)
		printf("\"orig_a0\":\"%#llx\",", (long long)r->r[A0]);
	printf("\"pc\":\"%#llx\"}", (long long)r->pc);
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":16,\"fcsr\":\"%#llx\",\"fcc\":\"%#llx\"}", key,
	       (long long)seed, (long long)r->fcsr, (long long)r->fcc);
}
