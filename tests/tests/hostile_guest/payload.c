/* A guest kernel that does nothing but attack its virtual machine from ring 0: it is entered as Linux
 * would be, in long mode with interrupts off, and has no library below it.
 *
 * SEED makes its choices, ATTACK says what it does: 1 registers and ports, 2 the queues of all devices,
 * 3 the file system's queues, 4 the socket device's, 5 the console. At its end it says how it went, and resets. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define MMIO 0xd0000000ul /* first device; 4 KiB for each */
#define PAGE 4096ul
#define DEVICES 8
#define SERIAL 0x3f8
#define KEYBOARD 0x64
#define RESET 0xfe

/* The boot tables map the first GiB. One more page directory maps the fourth. */
#define POINTERS ((volatile u64 *)0xa000)
static u64 directory[512] __attribute__((aligned(4096)));

static u64 state = SEED;

static u64 any(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static u64 below(u64 bound) { return any() % bound; }

static void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static void out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port)); }

static u32 in(u16 port, int width)
{
    u32 value = 0;
    if (width == 0)
        __asm__ volatile("inb %1, %b0" : "+a"(value) : "Nd"(port));
    else if (width == 1)
        __asm__ volatile("inw %1, %w0" : "+a"(value) : "Nd"(port));
    else
        __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void say(const char *text)
{
    while (*text)
        out8(SERIAL, *text++);
}

static void say_number(u64 number)
{
    char digits[21];
    int at = 20;
    digits[at] = 0;
    do {
        digits[--at] = '0' + number % 10;
        number /= 10;
    } while (number);
    say(digits + at);
}

static u32 get(u64 address) { return *(volatile u32 *)address; }
static void put(u64 address, u32 value) { *(volatile u32 *)address = value; }

/* Values at which arithmetic turns over, and any other. */
static u64 odd(void)
{
    static const u64 values[] = {
        0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
        0x7fffffffffffffff, 0x8000000000000000, 0xfffffffffffff000, 0xffffffffffffffff,
        MMIO, 0xfee00000, 0xc0000000, 0x1000000, 64ul << 20, (64ul << 20) - 1, (64ul << 20) - 4096,
    };
    u64 pick = below(2 * sizeof values / sizeof *values);
    return pick < sizeof values / sizeof *values ? values[pick] : any();
}

static void access(u64 address)
{
    u64 value = odd();
    switch (below(8)) {
    case 0: *(volatile u8 *)address = value; break;
    case 1: *(volatile u16 *)address = value; break;
    case 2: *(volatile u64 *)address = value; break;
    case 3: (void)*(volatile u8 *)address; break;
    case 4: (void)*(volatile u64 *)address; break;
    case 5: (void)*(volatile u32 *)address; break;
    default: *(volatile u32 *)address = value; break;
    }
}

static void attack_registers(void)
{
    for (int i = 0; i < 8000; i++)
        /* Aligned registers of the devices, anything in their pages, and what lies behind them. */
        access(below(2) ? MMIO + below(DEVICES) * PAGE + below(0x60) * 4
                        : MMIO + below((DEVICES + 8) * PAGE - 8));
    for (int i = 0; i < 4000; i++) {
        u16 port = below(2) ? any() : SERIAL + below(8);
        int width = below(3);
        u64 value = odd();
        if (port + 4 > 0x60 && port <= KEYBOARD)
            value &= ~0xfful & 0x7f7f7f7f; /* not yet */
        if (below(2))
            in(port, width);
        else if (width == 0)
            out8(port, value);
        else if (width == 1)
            out16(port, value);
        else
            out32(port, value);
    }
}

/* VIRTIO 1.2, 4.2.2 and 2.7. */
enum { MAGIC = 0, ID = 8, FEATURES = 0x10, SELECT = 0x14, ACCEPT = 0x20, ACCEPT_SELECT = 0x24,
       QUEUE = 0x30, MOST = 0x34, SIZE = 0x38, READY = 0x44, NOTIFY = 0x50, INTERRUPT = 0x60,
       ACKNOWLEDGE = 0x64, STATUS = 0x70, TABLE = 0x80, AVAILABLE = 0x90, USED = 0xa0 };
enum { FS = 26, VSOCK = 19 };
#define RINGS 8
#define ENTRIES 64

struct descriptor { u64 address; u32 length; u16 flags, next; };
static struct ring {
    struct descriptor table[ENTRIES];
    u16 available[ENTRIES + 4];
    u16 used[ENTRIES * 4 + 4];
} __attribute__((aligned(4096))) rings[RINGS];

static u8 buffers[64 * 4096] __attribute__((aligned(4096)));
static u64 requests, broken;

static void set64(u64 at, u64 value)
{
    put(at, value);
    put(at + 4, value >> 32);
}

/* Brings a device up, now and then not as the specification says. Returns its number of queues. */
static int start(u64 device)
{
    int queues = 0;
    put(device + STATUS, 0);
    put(device + STATUS, 1);
    put(device + STATUS, 3);
    for (u32 half = 0; half < 2; half++) {
        put(device + SELECT, half);
        u32 offered = get(device + FEATURES);
        put(device + ACCEPT_SELECT, half);
        put(device + ACCEPT, below(16) ? offered : offered & any());
    }
    put(device + STATUS, 11);
    for (; queues < RINGS; queues++) {
        put(device + QUEUE, queues);
        u32 most = get(device + MOST);
        if (!most)
            break;
        put(device + SIZE, below(32) ? (most < ENTRIES ? most : ENTRIES) : odd());
        set64(device + TABLE, below(64) ? (u64)rings[queues].table : odd());
        set64(device + AVAILABLE, below(64) ? (u64)rings[queues].available : odd());
        set64(device + USED, below(64) ? (u64)rings[queues].used : odd());
        rings[queues].available[0] = 0;
        rings[queues].available[1] = 0;
        put(device + READY, 1);
    }
    put(device + STATUS, 15);
    return queues;
}

static void fill(u8 *to, const void *from, u64 count)
{
    for (u64 i = 0; i < count; i++)
        to[i] = ((const u8 *)from)[i];
}

/* Names that lead out of a share where they are not checked. */
static u64 name(u8 *to)
{
    static const char *const names[] = {
        "..", "../canary", "/", "/etc/passwd", "escape", "escape/file", "./..", "a/../../canary", ".",
        "", "bin", "tmp", "new", "file", "canary/file", "/proc/self/root/etc",
    };
    const char *text = names[below(sizeof names / sizeof *names)];
    u64 length = 0;
    while (text[length]) {
        to[length] = text[length];
        length++;
    }
    if (!below(8))
        for (; length < 300; length++)
            to[length] = 'x';
    if (below(16))
        to[length++] = 0;
    return length;
}

/* A FUSE request: fuse_in_header, words, and one or two names (linux/fuse.h). */
static u64 file_request(u8 *to, int first)
{
    struct { u32 length, opcode; u64 unique, node; u32 uid, gid, pid, extra; } header = {
        .opcode = first ? 26 : 1 + below(52), .unique = requests, .node = 1 + below(12),
    };
    u64 at = sizeof header, words = below(13);
    if (first) {
        u32 init[16] = { 7, 38, 1 << 20, 0xffffffff };
        fill(to + at, init, sizeof init);
        at += sizeof init;
    } else {
        for (u64 i = 0; i < words; i++, at += 4)
            *(u32 *)(to + at) = below(2) ? below(0x10000) : odd();
        at += name(to + at);
        if (below(2))
            at += name(to + at);
    }
    header.length = below(8) ? at : odd();
    if (!below(8))
        header.node = odd();
    fill(to, &header, sizeof header);
    return at;
}

/* A vsock packet (VIRTIO 1.2, 5.10.6); not to the agent's port, whose end would be the machine's. */
static u64 packet(u8 *to)
{
    struct { u64 from, to; u32 from_port, to_port, length; u16 kind, op; u32 flags, room, read; }
        __attribute__((packed)) header = {
        .from = below(8) ? 3 : odd(), .to = below(8) ? 2 : odd(), .from_port = 1 + below(4),
        .to_port = below(4) ? (1 << 20) + below(4) : odd(), .length = below(4) ? below(512) : odd(),
        .kind = below(8) ? 1 : odd(), .op = below(9), .flags = below(4), .room = odd(), .read = odd(),
    };
    if (header.to_port == 1024)
        header.to_port++;
    fill(to, &header, sizeof header);
    return sizeof header + below(512);
}

static void offer(u32 id, int number, int first)
{
    struct ring *ring = &rings[number];
    u8 *buffer = buffers + below(32) * PAGE;
    u64 length = id == FS ? file_request(buffer, first) : id == VSOCK ? packet(buffer) : below(256);
    int count = first ? 2 : 2 + below(6);
    for (int i = 0; i < count; i++) {
        int last = i + 1 == count;
        struct descriptor descriptor = {
            .address = (u64)(buffers + (32 + below(31)) * PAGE), .length = below(4096),
            .flags = (last ? 0 : 1) | (i || (id != FS && id != VSOCK) ? below(4) ? 2 : 0 : 0),
            .next = i + 1,
        };
        if (!i) {
            descriptor.address = (u64)buffer;
            descriptor.length = length;
        }
        if (first) {
            descriptor.flags = last ? 2 : 1;
        } else if (!below(24)) {
            /* Loops, overlaps, beyond memory, nothing and 4 GiB, indirect tables. */
            descriptor.address = odd();
            descriptor.length = odd();
            descriptor.flags = any();
            descriptor.next = below(2) ? below(ENTRIES) : odd();
        }
        ring->table[i] = descriptor;
    }
    u16 index = ring->available[1];
    ring->available[2 + index % ENTRIES] = below(64) ? 0 : odd();
    ring->available[1] = below(128) || first ? index + 1 : (u16)odd();
    requests++;
}

static void attack_queues(u32 only, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < DEVICES; i++) {
            u64 device = MMIO + i * PAGE;
            u32 id = get(device + ID);
            if (get(device + MAGIC) != 0x74726976 || !id || (only && id != only))
                continue;
            int queues = start(device);
            if (!queues)
                continue;
            if (id == FS) {
                offer(id, queues > 1 ? 1 : 0, 1);
                put(device + NOTIFY, queues > 1 ? 1 : 0);
            }
            for (int n = 0; n < 24; n++) {
                int queue = below(queues);
                offer(id, queue, 0);
                put(device + NOTIFY, below(32) ? (u32)queue : odd());
                put(device + ACKNOWLEDGE, get(device + INTERRUPT));
                /* What is in flight is changed under the device's hands. */
                *(u32 *)(buffers + below(sizeof buffers - 4)) = any();
                if (get(device + STATUS) & 0x40) {
                    broken++;
                    break;
                }
            }
        }
    }
}

static void attack_console(void)
{
    for (int i = 0; i < 2000; i++)
        say(i % 4 ? "a line of the flood that is as long as many others are\n" : "x\n");
}

void attack(void)
{
    for (u64 i = 0; i < 512; i++)
        directory[i] = (0xc0000000ul + (i << 21)) | 0x83;
    POINTERS[3] = (u64)directory | 3;
    if (ATTACK == 1)
        attack_registers();
    else if (ATTACK == 5)
        attack_console();
    else
        attack_queues(ATTACK == 3 ? FS : ATTACK == 4 ? VSOCK : 0, ATTACK == 2 ? 30 : 60);
    /* A serial port that prints, whatever was written to it before. */
    out8(SERIAL + 3, 3);
    out8(SERIAL + 4, 0);
    say("\nhostile: attack ");
    say_number(ATTACK);
    say(" is over, requests ");
    say_number(requests);
    say(", broken ");
    say_number(broken);
    say("\n");
    for (;;)
        out8(KEYBOARD, RESET);
}

/* Above what is mapped from the file lies memory that is zero; the stack is there. */
static u8 stack[65536] __attribute__((aligned(16), used));
__asm__(".globl _start\n_start:\n  lea stack+65536(%rip), %rsp\n  call attack\n");
