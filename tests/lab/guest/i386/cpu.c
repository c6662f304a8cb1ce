/* i386: how registers are filled, and what the kernel shows of them. */
#define _GNU_SOURCE
#include <stdio.h>
#include "lab.h"

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	uint32_t *word = (uint32_t *)r;
	unsigned i;

	for (i = 0; i <= R_EAX / 4; i++)
		word[i] = (uint32_t)mix64(seed + i);
	r->eflags = 0x202 | (mix64(seed + 100) & 0x8d5);
	r->mxcsr = 0x1f80 | ((t->index & 3) << 13);
	r->fcw = (uint16_t)(0x37f | ((t->index & 3) << 10));
	r->st0 = (int64_t)(seed * 3);
	for (i = 0; i < 16; i++)
		r->xmm[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	uint32_t *const registers[] = { &r->ebx, &r->ecx, &r->edx, &r->esi, &r->edi, &r->ebp };
	size_t i;

	r->eax = (uint32_t)nr;
	for (i = 0; i < count; i++)
		*registers[i] = (uint32_t)args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->ebx = (uint32_t)value;
}

void read_bases(struct thread *t)
{
	__asm__("movl %%gs:0, %0" : "=r"(*(uint32_t *)&t->tls_base));
}

struct regs compat_regs(void)
{
	return (struct regs){ .ready = 0 };
}

void print_bases(const struct thread *t)
{
	printf(",\"tp\":\"%#llx\"", (long long)t->tls_base);
}

static const struct {
	const char *name;
	int offset;
} shown[] = {
	{ "ebx", R_EBX }, { "ecx", R_ECX }, { "edx", R_EDX }, { "esi", R_ESI }, { "edi", R_EDI }, { "ebp", R_EBP },
	{ "eflags", R_EFLAGS }, { "esp", R_ESP }, { "eip", R_EIP },
};

/* eax and orig_eax as the entry code leaves them (arch/x86/entry/entry_32.S). */
void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	uint32_t eax = entry == BY_SYSCALL ? (uint32_t)-38 : entry == BY_SYSCALL_DONE ? 0 : r->eax;
	size_t i;

	printf(",\"%s\":{", key);
	for (i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
		printf("\"%s\":\"%#x\",", shown[i].name, *(uint32_t *)((char *)r + shown[i].offset));
	printf("\"eax\":\"%#x\",\"orig_eax\":\"%#x\",\"cs\":\"0x73\",\"ss\":\"0x7b\"}", eax,
	       entry == BY_EXCEPTION ? (uint32_t)-1 : r->eax);
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":16,\"st0\":%lld,\"mxcsr\":\"%#x\",\"fcw\":\"%#x\"}", key,
	       (long long)seed, (long long)r->st0, r->mxcsr, r->fcw);
}
