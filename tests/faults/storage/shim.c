/* Lets calls of the C library fail, take long, or lie: for LD_PRELOAD. `shim.py` fills in the plan.

   The plan is a file named by JAXCNN_SHIM, mapped into this process and into those that it forks. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, SYNC = 4, RENAME = 8, MKDIR = 16, READ = 32, LOCK = 64 };
enum { FAIL = 0, SHORT = 1, LIE = 2 };

struct plan {
    int operations; /* bits of those that match */
    int error;      /* errno of a failure, or 0 */
    int after;      /* matching calls that go well first */
    int times;      /* calls that fail then; -1: all */
    int kind;       /* SHORT: half of the bytes are written before the error. LIE: a bit is flipped, without an error. */
    int hits;       /* matching calls so far */
    double delay;   /* seconds that each matching call takes longer */
    long clock;     /* seconds to add to the time of day */
    char root[256]; /* paths match that contain both */
    char name[256];
};

static struct plan *plan;

__attribute__((constructor)) static void map_plan(void) {
    const char *path = getenv("JAXCNN_SHIM");
    int file = path ? open(path, O_RDWR) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) plan = mapped;
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

static const char *path_of(int file, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, buffer, size - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

/* Returns whether this call is to fail, after the delay of the plan. */
static int hit(int operation, const char *path) {
    if (!plan || !(plan->operations & operation) || !path) return 0;
    if (!strstr(path, plan->root) || !strstr(path, plan->name)) return 0;
    int number = __sync_fetch_and_add(&plan->hits, 1);
    if (plan->delay > 0) {
        struct timespec time = {(time_t)plan->delay, (long)((plan->delay - (time_t)plan->delay) * 1e9)};
        nanosleep(&time, NULL);
    }
    if (number < plan->after || (plan->times >= 0 && number >= plan->after + plan->times)) return 0;
    if (plan->kind != LIE && !plan->error) return 0;
    errno = plan->error;
    return 1;
}

static int hit_file(int operation, int file) {
    if (!plan || !(plan->operations & operation)) return 0;
    char path[4096];
    return hit(operation, path_of(file, path, sizeof path));
}

static int hit_at(int operation, int folder, const char *path) {
    if (!plan || !(plan->operations & operation)) return 0;
    char whole[8192], start[4096];
    if (path[0] == '/') return hit(operation, path);
    snprintf(whole, sizeof whole, "%s/%s", folder == AT_FDCWD ? "" : path_of(folder, start, sizeof start), path);
    return hit(operation, whole);
}

static int opens(int flags) { return flags & (O_WRONLY | O_RDWR) ? CREATE : READ; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return hit_at(opens(flags), AT_FDCWD, path) ? -1 : REAL(name)(path, flags, mode); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        return hit_at(opens(flags), folder, path) ? -1 : REAL(name)(folder, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)

/* A write of a few bytes that fails, or that stores others than it was given. */
static ssize_t spoilt(int file, const void *data, size_t size, off_t offset, int placed) {
    int error = plan->error;
    if (plan->kind == LIE && size) {
        char *copy = malloc(size);
        memcpy(copy, data, size);
        copy[size / 2] ^= 4;
        ssize_t written = placed ? REAL(pwrite)(file, copy, size, offset) : REAL(write)(file, copy, size);
        free(copy);
        return written;
    }
    if (plan->kind == SHORT && size > 1) {
        ssize_t written = placed ? REAL(pwrite)(file, data, size / 2, offset) : REAL(write)(file, data, size / 2);
        if (written < 0) return -1;
    }
    errno = error;
    return -1;
}

ssize_t write(int file, const void *data, size_t size) {
    return hit_file(WRITE, file) ? spoilt(file, data, size, 0, 0) : REAL(write)(file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return hit_file(WRITE, file) ? spoilt(file, data, size, offset, 1) : REAL(pwrite)(file, data, size, offset);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    return hit_file(WRITE, file) ? spoilt(file, data, size, offset, 1) : REAL(pwrite64)(file, data, size, offset);
}
ssize_t writev(int file, const struct iovec *parts, int count) {
    if (!hit_file(WRITE, file)) return REAL(writev)(file, parts, count);
    if (plan->kind != LIE) return spoilt(file, parts[0].iov_base, parts[0].iov_len, 0, 0);
    /* A lie stores all parts. */
    ssize_t total = 0;
    for (int i = 0; i < count; i++) {
        const void *data = parts[i].iov_base;
        size_t size = parts[i].iov_len;
        ssize_t written = i == 0 ? spoilt(file, data, size, 0, 0) : REAL(write)(file, data, size);
        if (written < 0) return -1;
        total += written;
    }
    return total;
}
ssize_t read(int file, void *data, size_t size) { return hit_file(READ, file) ? -1 : REAL(read)(file, data, size); }
ssize_t pread(int file, void *data, size_t size, off_t offset) {
    return hit_file(READ, file) ? -1 : REAL(pread)(file, data, size, offset);
}
ssize_t pread64(int file, void *data, size_t size, off64_t offset) {
    return hit_file(READ, file) ? -1 : REAL(pread64)(file, data, size, offset);
}
int fsync(int file) { return hit_file(SYNC, file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return hit_file(SYNC, file) ? -1 : REAL(fdatasync)(file); }
int rename(const char *old, const char *new) {
    return hit_at(RENAME, AT_FDCWD, old) ? -1 : REAL(rename)(old, new);
}
int renameat(int old_folder, const char *old, int new_folder, const char *new) {
    return hit_at(RENAME, old_folder, old) ? -1 : REAL(renameat)(old_folder, old, new_folder, new);
}
int mkdir(const char *path, mode_t mode) { return hit_at(MKDIR, AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) {
    return hit_at(MKDIR, folder, path) ? -1 : REAL(mkdirat)(folder, path, mode);
}
int flock(int file, int operation) {
    return hit_file(LOCK, file) ? -1 : REAL(flock)(file, operation);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int status = REAL(clock_gettime)(clock, time);
    if (plan && clock == CLOCK_REALTIME && !status) time->tv_sec += plan->clock;
    return status;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int status = REAL(gettimeofday)(time, zone);
    if (plan && !status) time->tv_sec += plan->clock;
    return status;
}
time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
