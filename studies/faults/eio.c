/* Makes fsync, rename or write of regular files fail with EIO, with the probability $FAULT_SHARE: LD_PRELOAD it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fails(const char *point) {
    static unsigned seed, begun;
    const char *wanted = getenv("FAULT_POINT"), *share = getenv("FAULT_SHARE"), *start = getenv("FAULT_SEED");
    if (!wanted || !share || strcmp(wanted, point)) return 0;
    if (!begun) begun = 1, seed = start ? (unsigned)atoi(start) : 0;
    if (rand_r(&seed) >= atof(share) * RAND_MAX) return 0;
    errno = EIO;
    return 1;
}

int fsync(int file) {
    return fails("fsync") ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int rename(const char *old, const char *new) {
    return fails("rename") ? -1 : ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(old, new);
}

ssize_t write(int file, const void *from, size_t count) {
    struct stat about;
    int regular = !fstat(file, &about) && S_ISREG(about.st_mode);
    return regular && fails("write") ? -1
        : ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(file, from, count);
}
