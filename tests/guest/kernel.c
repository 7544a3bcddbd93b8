/*
 * Asks the kernel for everything that programs in containers use, and says for each thing whether
 * it is there: "NAME: ok", or what the kernel answered. Needs every capability.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/random.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static void told(const char *name, long result) {
    printf("%s: %s\n", name, result < 0 ? strerrorname_np(errno) : "ok");
    fflush(stdout);
}

static void space(const char *name, int flag) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(unshare(flag) ? errno : 0);
    waitpid(child, &status, 0);
    errno = WEXITSTATUS(status);
    told(name, errno ? -1 : 0);
}

static void spaces(void) {
    space("namespace mount", CLONE_NEWNS);
    space("namespace uts", CLONE_NEWUTS);
    space("namespace ipc", CLONE_NEWIPC);
    space("namespace pid", CLONE_NEWPID);
    space("namespace network", CLONE_NEWNET);
    space("namespace user", CLONE_NEWUSER);
    space("namespace cgroup", CLONE_NEWCGROUP);
    space("namespace time", CLONE_NEWTIME);
}

static void file_system(const char *name, const char *type, const char *options) {
    char where[64];
    sprintf(where, "/tmp/fs-%s", name);
    mkdir(where, 0755);
    int result = mount(type, where, type, 0, options);
    char message[96];
    sprintf(message, "mount %s", name);
    told(message, result);
}

static void file_systems(void) {
    file_system("tmpfs", "tmpfs", "size=1m,nr_inodes=100");
    told("tmpfs user attributes", setxattr("/tmp/fs-tmpfs", "user.x", "x", 1, 0));
    told("tmpfs trusted attributes", setxattr("/tmp/fs-tmpfs", "trusted.x", "x", 1, 0));
    file_system("tmpfs-quota", "tmpfs", "usrquota,grpquota");
    file_system("proc", "proc", NULL);
    file_system("sysfs", "sysfs", NULL);
    file_system("devpts", "devpts", "newinstance,ptmxmode=0666");
    file_system("mqueue", "mqueue", NULL);
    file_system("cgroup2", "cgroup2", NULL);
    file_system("binfmt", "binfmt_misc", NULL);
    file_system("bpf", "bpf", NULL);
    mkdir("/tmp/fs-tmpfs/lower", 0755);
    mkdir("/tmp/fs-tmpfs/upper", 0755);
    mkdir("/tmp/fs-tmpfs/work", 0755);
    file_system("overlay", "overlay",
                "lowerdir=/tmp/fs-tmpfs/lower,upperdir=/tmp/fs-tmpfs/upper,workdir=/tmp/fs-tmpfs/work");
    int fuse = open("/dev/fuse", O_RDWR);
    told("open /dev/fuse", fuse);
    char options[64];
    sprintf(options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
    file_system("fuse", "fuse", options);
}

static void controllers(void) {
    char line[512] = "";
    FILE *file = fopen("/tmp/fs-cgroup2/cgroup.controllers", "r");
    if (file && fgets(line, sizeof line, file)) line[strcspn(line, "\n")] = 0;
    static const char *const wanted[] = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"};
    for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char message[64];
        sprintf(message, "controller %s", wanted[i]);
        errno = ENOENT;
        char padded[520], word[32];
        sprintf(padded, " %s ", line);
        sprintf(word, " %s ", wanted[i]);
        told(message, strstr(padded, word) ? 0 : -1);
    }
}

static void calls(void) {
    struct io_uring_params ring = {0};
    told("io_uring", syscall(SYS_io_uring_setup, 4, &ring));
    told("inotify", inotify_init1(0));
    told("fanotify", fanotify_init(FAN_CLASS_NOTIF, O_RDONLY));
    told("fanotify by name", fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME, O_RDONLY));
    told("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
    told("memfd", memfd_create("x", MFD_ALLOW_SEALING));
    told("epoll", epoll_create1(0));
    told("eventfd", eventfd(0, 0));
    told("timerfd", timerfd_create(CLOCK_MONOTONIC, 0));
    sigset_t none;
    sigemptyset(&none);
    told("signalfd", signalfd(-1, &none, 0));
    timer_t timer;
    told("POSIX timer", timer_create(CLOCK_MONOTONIC, NULL, &timer));
    told("pidfd", syscall(SYS_pidfd_open, getpid(), 0));
    told("landlock", syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION));
    unsigned action = SECCOMP_RET_USER_NOTIF;
    told("seccomp notify", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    told("keys", syscall(SYS_add_key, "user", "x", "x", 1, -2));
    aio_context_t context = 0;
    told("AIO", syscall(SYS_io_setup, 1, &context));
    char byte;
    told("random", getrandom(&byte, 1, GRND_NONBLOCK));
    told("membarrier", syscall(SYS_membarrier, 0, 0, 0));
    told("rseq", syscall(SYS_rseq, NULL, 0, 0, 0) < 0 && errno == ENOSYS ? -1 : 0);
    told("openat2", syscall(SYS_openat2, AT_FDCWD, "/", (long[3]){O_PATH, 0, 0}, 24));
    told("clone3", syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS ? -1 : 0);
    told("mount API", syscall(SYS_fsopen, "tmpfs", 0));
    told("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0));
    told("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    void *huge = mmap(NULL, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    told("huge pages", huge == MAP_FAILED && errno != ENOMEM ? -1 : 0);
    told("transparent huge pages", access("/sys/kernel/mm/transparent_hugepage/enabled", R_OK));
    struct bpf_insn program[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1},
                                 {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = 2};
    load.insns = (unsigned long)program;
    load.license = (unsigned long)"Apache-2.0";
    told("BPF for cgroup devices", syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
}

static void processes_talk(void) {
    told("shared memory", shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600));
    told("semaphores", semget(IPC_PRIVATE, 1, IPC_CREAT | 0600));
    told("messages", msgget(IPC_PRIVATE, IPC_CREAT | 0600));
    told("message queue", mq_open("/kernel-test", O_CREAT | O_RDWR, 0600, NULL));
}

static int sockets(const char *name, int family, int type, int protocol) {
    int made = socket(family, type, protocol);
    char message[64];
    sprintf(message, "socket %s", name);
    told(message, made);
    return made;
}

/* One netlink message and the answer's error number, as a negative result. */
static int ask(int netlink, void *message, unsigned length) {
    char answer[4096];
    if (send(netlink, message, length, 0) < 0) return -1;
    ssize_t got = recv(netlink, answer, sizeof answer, 0);
    struct nlmsghdr *header = (void *)answer;
    if (got < (ssize_t)sizeof *header || header->nlmsg_type != NLMSG_ERROR) return errno = EPROTO, -1;
    int error = ((struct nlmsgerr *)NLMSG_DATA(header))->error;
    if (error) errno = -error;
    return error ? -1 : 0;
}

static void attribute(struct nlmsghdr *message, int type, const void *data, int length) {
    struct rtattr *attribute = (void *)((char *)message + NLMSG_ALIGN(message->nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(length);
    if (length) memcpy(RTA_DATA(attribute), data, length);
    message->nlmsg_len = NLMSG_ALIGN(message->nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

static void interface(int netlink, const char *kind) {
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
        char attributes[256];
    } message = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
                            .nlmsg_type = RTM_NEWLINK,
                            .nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK}};
    char name[32], text[32];
    sprintf(name, "t-%s", kind);
    attribute(&message.header, IFLA_IFNAME, name, strlen(name) + 1);
    struct rtattr *nest = (void *)((char *)&message + NLMSG_ALIGN(message.header.nlmsg_len));
    attribute(&message.header, IFLA_LINKINFO, NULL, 0);
    attribute(&message.header, IFLA_INFO_KIND, kind, strlen(kind) + 1);
    nest->rta_len = (char *)&message + message.header.nlmsg_len - (char *)nest;
    sprintf(text, "interface %s", kind);
    told(text, ask(netlink, &message, message.header.nlmsg_len));
}

/* A table with a chain of the type "nat", as one batch. */
static void nat(const char *name, int family) {
    int netlink = sockets(name, AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    char batch[1024] = {0};
    unsigned length = 0;
    static const int kinds[] = {NFNL_MSG_BATCH_BEGIN, NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFNL_MSG_BATCH_END};
    for (int i = 0; i < 4; i++) {
        struct nlmsghdr *header = (void *)(batch + length);
        int edge = i == 0 || i == 3;
        header->nlmsg_len = NLMSG_LENGTH(sizeof(struct nfgenmsg));
        header->nlmsg_type = edge ? kinds[i] : (NFNL_SUBSYS_NFTABLES << 8 | kinds[i]);
        header->nlmsg_flags = NLM_F_REQUEST | (edge ? 0 : NLM_F_CREATE) | (i == 2 ? NLM_F_ACK : 0);
        header->nlmsg_seq = i;
        struct nfgenmsg *general = NLMSG_DATA(header);
        general->nfgen_family = edge ? AF_UNSPEC : family;
        general->res_id = edge ? htons(NFNL_SUBSYS_NFTABLES) : 0;
        if (i == 1) attribute(header, NFTA_TABLE_NAME, "t", 2);
        if (i == 2) {
            uint32_t hook = htonl(4), priority = htonl(100);
            attribute(header, NFTA_CHAIN_TABLE, "t", 2);
            attribute(header, NFTA_CHAIN_NAME, "c", 2);
            struct rtattr *nest = (void *)((char *)header + NLMSG_ALIGN(header->nlmsg_len));
            attribute(header, NFTA_CHAIN_HOOK | NLA_F_NESTED, NULL, 0);
            attribute(header, NFTA_HOOK_HOOKNUM, &hook, 4);
            attribute(header, NFTA_HOOK_PRIORITY, &priority, 4);
            nest->rta_len = (char *)header + header->nlmsg_len - (char *)nest;
            attribute(header, NFTA_CHAIN_TYPE, "nat", 4);
        }
        length += NLMSG_ALIGN(header->nlmsg_len);
    }
    char text[64];
    sprintf(text, "chain %s", name);
    told(text, ask(netlink, batch, length));
    close(netlink);
}

static void networks(void) {
    if (unshare(CLONE_NEWNET)) told("an own network namespace", -1);
    sockets("unix", AF_UNIX, SOCK_SEQPACKET, 0);
    sockets("inet tcp", AF_INET, SOCK_STREAM, 0);
    sockets("inet udp", AF_INET, SOCK_DGRAM, 0);
    sockets("inet raw", AF_INET, SOCK_RAW, IPPROTO_ICMP);
    sockets("inet6 tcp", AF_INET6, SOCK_STREAM, 0);
    sockets("inet6 raw", AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
    sockets("packet", AF_PACKET, SOCK_RAW, htons(3));
    sockets("audit of uevents", AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT);
    sockets("socket diagnosis", AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
    int route = sockets("route", AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    interface(route, "veth");
    interface(route, "bridge");
    nat("nat inet4", NFPROTO_IPV4);
    nat("nat inet6", NFPROTO_IPV6);
    mkdir("/dev/net", 0755);
    mknod("/dev/net/tun", S_IFCHR | 0666, makedev(10, 200));
    int tun = open("/dev/net/tun", O_RDWR);
    told("open tun", tun);
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    strcpy(request.ifr_name, "t-tap");
    told("interface tap", ioctl(tun, TUNSETIFF, &request));
}

/* What a guest's kernel must not have: each line says "absent" when it is as it should be. */
static void absent(const char *name, int there) {
    printf("%s: %s\n", name, there ? "THERE" : "absent");
}

static void dangers(void) {
    absent("modules", !access("/proc/modules", F_OK));
    mknod("/tmp/mem", S_IFCHR | 0600, makedev(1, 1));
    absent("memory device", open("/tmp/mem", O_RDONLY) >= 0);
    absent("kernel memory in proc", open("/proc/kcore", O_RDONLY) >= 0);
    errno = 0;
    syscall(SYS_kexec_load, 0, 0, NULL, 0);
    absent("kexec", errno != ENOSYS);
    absent("PCI", !access("/sys/bus/pci", F_OK));
    absent("USB", !access("/sys/bus/usb", F_OK));
    absent("ACPI", !access("/sys/firmware/acpi", F_OK));
    absent("debugfs", mount("debugfs", "/mnt", "debugfs", 0, NULL) == 0);
}

int main(void) {
    spaces();
    file_systems();
    controllers();
    calls();
    processes_talk();
    networks();
    dangers();
    return 0;
}
