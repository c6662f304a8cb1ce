/* What expressions, formats and definitions are tried on: stop() is called once everything has its value. */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef unsigned char u8;
typedef signed char s8;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef int (*handler_t)(void *, int);

enum color { RED, GREEN = 5, BLUE };
enum flags { F_ONE = 1, F_TWO = 2, F_FOUR = 4, F_MANY = 0xf0 };
enum mixed { M_ONE = 1, M_THREE = 3, M_FIVE = 5 };
enum below { B_MINUS = -1, B_ZERO, B_ONE };
enum wide { W_LOW = 1, W_HIGH = 0x100000000ull };

struct list_head { struct list_head *next, *prev; };
struct empty { };
struct incomplete;

struct bits {
	unsigned int a : 1;
	unsigned int b : 3;
	int c : 4;
	u64 d : 40;
	bool e : 1;
	enum color f : 4;
	u8 g : 2;
};

union number {
	int i;
	unsigned char bytes[4];
	float f;
};

struct node {
	int value;
	char name[16];
	u8 raw[6];
	struct list_head list;
	union {
		struct {
			short x, y;
		};
		int xy;
	};
	struct {
		int in;
		struct { int deep; } inner;
	} named;
	struct bits bits;
	union number number;
	enum color color;
	enum flags flags;
	enum mixed mixed;
	enum below below;
	bool yes, odd;
	char letter;
	signed char small;
	long big;
	unsigned long huge;
	float single;
	double twice;
	int matrix[2][3];
	char words[2][4];
	struct empty nothing;
	handler_t handler;
	const char *text, *none, *wild;
	void *anything;
	struct incomplete *unknown;
	struct node *next;
	int *const fixed;
	volatile const int *moving;
	const char *const *texts;
	struct list_head heads[2];
	void (*callbacks[2])(int);
	__int128 giant;
	u32 tail[];
};

int handler(void *data, int n) { (void)data; return n; }
static void callback(int n) { (void)n; }
int numbers[300];
char long_text[300];
char full[4] = { 'a', 'b', 'c', 'd' };
u64 jiffies = 4294937296;
struct node *head, first, second;
const char banner[] = "Linux \"version\" 1\n\t\x1b[0m\0017\\";
enum color shade = BLUE;
bool flag = true;
struct list_head loop = { &loop, &loop };
char *ragged = "\377\0019z";
double ratio = 1.0 / 3;
int negative = -7;
unsigned int small_unsigned = 7;

void __attribute__((noinline)) stop(void) { __asm__ volatile(""); }

int main(void)
{
	for (int i = 0; i < 300; i++)
		numbers[i] = i;
	memset(long_text, 'x', sizeof long_text);
	head = &first;
	first.value = -5;
	strcpy(first.name, "swapper/0");
	first.raw[1] = 7;
	first.raw[2] = 'q';
	first.list.next = first.list.prev = &first.list;
	first.x = -2;
	first.y = 9;
	first.named.in = 3;
	first.named.inner.deep = 4;
	first.bits.a = 1;
	first.bits.b = 5;
	first.bits.c = -3;
	first.bits.d = 0x123456789a;
	first.bits.e = true;
	first.bits.f = GREEN;
	first.bits.g = 2;
	first.number.f = 1.5;
	first.color = (enum color)9;
	first.flags = F_ONE | F_FOUR | 0x100;
	first.mixed = (enum mixed)4;
	first.below = B_MINUS;
	first.yes = true;
	*(char *)&first.odd = 3;
	first.letter = '\'';
	first.small = -1;
	first.big = -1234567890123;
	first.huge = -1ul;
	first.single = 0.1f;
	first.twice = 1e100;
	first.matrix[1][2] = 6;
	memcpy(first.words, "abcdefg", 8);
	first.handler = handler;
	first.text = banner;
	first.wild = (const char *)8;
	first.anything = &second;
	first.unknown = (struct incomplete *)16;
	first.next = &second;
	first.moving = &negative;
	first.heads[1].next = &loop;
	first.callbacks[0] = callback;
	first.giant = (__int128)1 << 100;
	second.flags = F_MANY;
	second.color = GREEN;
	stop();
	return 0;
}
