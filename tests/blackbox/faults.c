/* What the disk and the clocks say to one process, changed from outside while it runs. Loaded by LD_PRELOAD.

   BLACKBOX_FAULTS names a file with the struct below; only files whose path begins with BLACKBOX_DISK are concerned.
   No privilege is needed for it, unlike for ptrace, mounts, and the clock of the machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct faults {
    double wall;         /* seconds by which the wall clock is ahead */
    double steady;       /* seconds by which the monotonic clocks are ahead */
    int64_t room;        /* bytes by which files may still grow; negative: any number */
    int64_t sync_fails;  /* this fsync or fdatasync from now on fails with EIO, and all after it; 0: none does */
    int64_t write_fails; /* the same for writing */
    int64_t failed;      /* how many calls have failed so */
};

static struct faults none = {0, 0, -1, 0, 0, 0};
static volatile struct faults *faults = &none;
static const char *disk = NULL;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("BLACKBOX_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return;
    faults = mapped;
    disk = getenv("BLACKBOX_DISK");
}

static int concerned(int fd) {
    if (!disk || (faults->room < 0 && !faults->sync_fails && !faults->write_fails)) return 0;
    char link[32], path[4096];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path);
    errno = kept;
    return size >= (ssize_t)strlen(disk) && !memcmp(path, disk, strlen(disk));
}

/* Whether the call that is counted by `left` fails now. */
static int fails(volatile int64_t *left) {
    if (*left > 1) --*left;
    else if (*left == 1) {
        ++faults->failed;
        errno = EIO;
        return 1;
    }
    return 0;
}

/* How many of `size` bytes can be written at `offset`: fewer, or -1, if the disk is full or broken. */
static ssize_t fits(int fd, size_t size, off_t offset) {
    struct stat about;
    if (fails(&faults->write_fails)) return -1;
    if (faults->room < 0 || fstat(fd, &about)) return (ssize_t)size;
    int64_t growth = offset + (int64_t)size - about.st_size;
    if (growth > faults->room) {
        ++faults->failed;
        int64_t over = growth - faults->room;
        if (over >= (int64_t)size) {
            errno = ENOSPC;
            return -1;
        }
        size -= (size_t)over;
        growth = faults->room;
    }
    if (growth > 0) faults->room -= growth;
    return (ssize_t)size;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    ssize_t fitting = concerned(fd) ? fits(fd, size, offset) : (ssize_t)size;
    return fitting < 0 ? -1 : real_pwrite(fd, data, (size_t)fitting, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size) {
    int end = fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR;
    ssize_t fitting = concerned(fd) ? fits(fd, size, lseek(fd, 0, end)) : (ssize_t)size;
    return fitting < 0 ? -1 : real_write(fd, data, (size_t)fitting);
}

int ftruncate64(int fd, off_t size) {
    struct stat about;
    if (concerned(fd) && faults->room >= 0 && !fstat(fd, &about) && about.st_size > size)
        faults->room += about.st_size - size;
    return real_ftruncate(fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) { return concerned(fd) && fails(&faults->sync_fails) ? -1 : real_fsync(fd); }

int fdatasync(int fd) { return concerned(fd) && fails(&faults->sync_fails) ? -1 : real_fdatasync(fd); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime) begin();
    int wrong = real_clock_gettime(clock, now);
    if (wrong) return wrong;
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        now->tv_sec += (time_t)faults->wall;
    else if (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME)
        now->tv_sec += (time_t)faults->steady;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec time;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &time)) return -1;
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
