"""A machine whose clocks a test moves while the programs run: steps of the wall clock, and a faster time."""
import mmap
import pathlib
import struct
import subprocess

# A library for LD_PRELOAD, made by the linker that Rust needs too. The file of TEST_CLOCK has the nanoseconds that the wall
# clock is ahead, and how many times as fast the monotonic clock goes. Rust waits in a futex until a time of the monotonic
# clock, which is the kernel's there: the waits are given back in the kernel's time.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile struct { int64_t ahead_ns, times; } *clocks;
static int64_t began_ns;

static long (*raw)(long, ...);
static int64_t ns_of(const struct timespec *t) { return t->tv_sec * 1000000000LL + t->tv_nsec; }
static void set(struct timespec *t, int64_t ns) {
    t->tv_sec = ns / 1000000000, t->tv_nsec = ns % 1000000000;
    if (t->tv_nsec < 0) t->tv_nsec += 1000000000, t->tv_sec--;
}
__attribute__((constructor)) static void start(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct timespec now;
    raw = dlsym(RTLD_NEXT, "syscall");
    raw(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    began_ns = ns_of(&now);
    if (file < 0) return;
    void *at = mmap(0, sizeof *clocks, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) clocks = at;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (raw(SYS_clock_gettime, clock, now)) return -1;
    if (clocks && clock == CLOCK_REALTIME) set(now, ns_of(now) + clocks->ahead_ns);
    if (clocks && clock == CLOCK_MONOTONIC) set(now, began_ns + (ns_of(now) - began_ns) * clocks->times);
    return 0;
}
long syscall(long n, ...) {
    va_list more;
    va_start(more, n);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    struct timespec until;
    if (clocks && n == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && !(a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        set(&until, began_ns + (ns_of((struct timespec *)a[3]) - began_ns) / clocks->times);
        a[3] = (long)&until;
    }
    return raw(n, a[0], a[1], a[2], a[3], a[4], a[5]);
}
"""


class Clock:
    """The clocks of the programs that are started with `env`; `step` moves their wall clock at once."""

    def __init__(self, folder: pathlib.Path, times=1):
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        file = folder / "clock"
        file.write_bytes(struct.pack("=qq", 0, times))
        with open(file, "r+b") as opened:
            self.shared = mmap.mmap(opened.fileno(), 16)
        self.env = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(file)}

    def step(self, ahead_s):
        """The wall clock is so many seconds ahead of the machine's from now on."""
        self.shared[:8] = struct.pack("=q", int(ahead_s * 1_000_000_000))
