/* x86-64: how registers are filled, and what the kernel shows of them. */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "lab.h"

void fill_regs(struct thread *t, struct regs *r, unsigned salt)
{
	u64 *word = (u64 *)r, seed = 0x7e6000000000ULL + ((u64)t->index << 16) + ((u64)salt << 12);
	unsigned i;

	for (i = 0; i <= R_RAX / 8; i++)
		word[i] = mix64(seed + i);
	r->rflags = 0x202 | (mix64(seed + 100) & 0x8d5);
	r->avx = __builtin_cpu_supports("avx") != 0;
	r->st0 = (int64_t)(seed * 3);
	r->mxcsr = 0x1f80 | ((t->index & 3) << 13);
	r->fcw = (uint16_t)(0x37f | ((t->index & 3) << 10));
	for (i = 0; i < 64; i++)
		r->ymm[i] = mix64(t->vec_seed + 64 * salt + i);
}

void set_call(struct regs *r, long nr, const u64 *args, size_t count)
{
	u64 *const registers[] = { &r->rdi, &r->rsi, &r->rdx, &r->r10, &r->r8, &r->r9 };
	size_t i;

	r->rax = (u64)nr;
	for (i = 0; i < count; i++)
		*registers[i] = args[i];
}

void set_argument(struct regs *r, u64 value)
{
	r->rdi = value;
}

void read_bases(struct thread *t)
{
	t->other_base = 0x6aab00000000ULL + ((u64)t->index << 12);
	syscall(SYS_arch_prctl, ARCH_SET_GS, t->other_base);
	__asm__("mov %%fs:0, %0" : "=r"(t->tls_base));
}

struct regs compat_regs(void)
{
	return (struct regs){ .rbx = 0xb0b0b0b1, .rcx = 0xc0c0c0c2, .rdx = 0xd0d0d0d3, .rsi = 0x51515154,
			      .rdi = 0xd1d1d1d5, .rbp = 0xeb9eb9e6, .rsp = 0x8061000, .rip = 0x8050040,
			      .rax = 29, .rflags = 0x202, .ready = 1 };
}

void print_bases(const struct thread *t)
{
	printf(",\"fs_base\":\"%#llx\",\"gs_base\":\"%#llx\"", (long long)t->tls_base, (long long)t->other_base);
}

static const struct {
	const char *name;
	int offset;
} shown[] = {
	{ "rbx", R_RBX }, { "rbp", R_RBP }, { "r8", R_R8 }, { "r9", R_R9 }, { "r10", R_R10 }, { "r12", R_R12 },
	{ "r13", R_R13 }, { "r14", R_R14 }, { "r15", R_R15 }, { "rdi", R_RDI }, { "rsi", R_RSI }, { "rdx", R_RDX },
	{ "eflags", R_RFLAGS }, { "rsp", R_RSP }, { "rip", R_RIP },
};

/* rcx, r11, rax, orig_rax as the entry code leaves them (arch/x86/entry/entry_64.S). */
static void print_entry_regs(const struct regs *r, enum entry entry)
{
	bool call = entry == BY_SYSCALL || entry == BY_SYSCALL_DONE;
	u64 rax = entry == BY_SYSCALL || entry == BY_COMPAT ? (u64)-38 : entry == BY_SYSCALL_DONE ? 0 : r->rax;

	printf("\"rcx\":\"%#llx\",\"r11\":\"%#llx\",\"rax\":\"%#llx\",\"orig_rax\":\"%#llx\",",
	       (long long)(call ? r->rip : r->rcx), (long long)(call ? r->rflags : r->r11), (long long)rax,
	       (long long)(entry == BY_EXCEPTION ? (u64)-1 : r->rax));
}

void print_regs(const char *key, const struct regs *r, enum entry entry)
{
	size_t i;

	printf(",\"%s\":{", key);
	for (i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
		printf("\"%s\":\"%#llx\",", shown[i].name, (long long)*(u64 *)((char *)r + shown[i].offset));
	print_entry_regs(r, entry);
	printf("\"cs\":\"%s\",\"ss\":\"0x2b\"}", entry == BY_COMPAT ? "0x23" : "0x33");
}

void print_vector(const char *key, const struct regs *r, u64 seed)
{
	printf(",\"%s\":{\"seed\":\"%#llx\",\"bytes\":%d,\"st0\":%lld,\"mxcsr\":\"%#x\",\"fcw\":\"%#x\"}", key,
	       (long long)seed, r->avx ? 32 : 16, (long long)r->st0, r->mxcsr, r->fcw);
}
