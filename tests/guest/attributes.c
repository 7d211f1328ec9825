/* What restricts files beyond their modes (chattr), access control lists, handles that name them, signals about
 * directories, and what statmount and listmount say of mounts. Run as root, in a name space of its own. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/xattr.h>
#include <unistd.h>

static char directory[] = "/var/tmp/umbel-attributes-XXXXXX";

static int set(const char *name, int flags) {
    int fd = open(name, O_RDONLY), result = ioctl(fd, FS_IOC_SETFLAGS, &flags), saved = errno;
    close(fd);
    errno = saved;
    return result;
}

static int get(const char *name) {
    int flags = 0, fd = open(name, O_RDONLY);
    CHECK(ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0);
    close(fd);
    return flags;
}

static void immutable(void) {
    struct statx x;
    int fd = open("i", O_RDWR | O_CREAT, 0644);
    CHECK(write(fd, "abc", 3) == 3 && get("i") == 0 && set("i", FS_IMMUTABLE_FL) == 0 && get("i") == FS_IMMUTABLE_FL);
    CHECK(statx(AT_FDCWD, "i", 0, STATX_BASIC_STATS, &x) == 0 && (x.stx_attributes & 0x70) == STATX_ATTR_IMMUTABLE);
    CHECK((x.stx_attributes_mask & 0x70) == 0x70);
    CHECK_ERRNO(open("i", O_WRONLY), EPERM);
    CHECK_ERRNO(open("i", O_RDONLY | O_TRUNC), EPERM);
    CHECK_ERRNO(access("i", W_OK), EPERM);
    CHECK_ERRNO(chmod("i", 0600), EPERM);
    CHECK_ERRNO(chown("i", 1, 1), EPERM);
    CHECK_ERRNO(utimes("i", 0), EPERM);
    CHECK_ERRNO(truncate("i", 0), EPERM);
    CHECK_ERRNO(unlink("i"), EPERM);
    CHECK_ERRNO(rename("i", "j"), EPERM);
    CHECK_ERRNO(link("i", "j"), EPERM);
    CHECK_ERRNO(setxattr("i", "user.x", "1", 1, 0), EPERM);
    CHECK(set("i", 0) == 0 && chmod("i", 0600) == 0 && unlink("i") == 0 && close(fd) == 0);
    CHECK(mkdir("di", 0755) == 0 && set("di", FS_IMMUTABLE_FL) == 0);
    CHECK_ERRNO(open("di/x", O_RDWR | O_CREAT, 0600), EPERM);
    CHECK_ERRNO(mkdir("di/x", 0700), EPERM);
    CHECK(set("di", 0) == 0 && rmdir("di") == 0);
}

/* The newer calls, where the host has them. */
static void newer(void) {
    uint64_t attr[3] = {FS_XFLAG_NODUMP}, seen[3] = {0};
    int fd = open("n", O_RDWR | O_CREAT, 0644);
    if (syscall(469, AT_FDCWD, "n", attr, sizeof attr, 0) == 0 || errno != ENOSYS) {
        CHECK(get("n") == FS_NODUMP_FL && syscall(468, AT_FDCWD, "n", seen, sizeof seen, 0) == 0 && (seen[0] & FS_XFLAG_NODUMP));
        CHECK_ERRNO(syscall(468, AT_FDCWD, "n", seen, 8, 0), EINVAL);
        CHECK_ERRNO(syscall(468, AT_FDCWD, "n", seen, 5000, 0), E2BIG);
        CHECK_ERRNO(syscall(468, AT_FDCWD, "none", seen, sizeof seen, 0), ENOENT);
        CHECK_ERRNO(syscall(468, AT_FDCWD, "n", 0, sizeof seen, 0), EFAULT);
        attr[0] = FS_XFLAG_EXTSIZE, attr[1] = 4096;
        CHECK_ERRNO(syscall(469, AT_FDCWD, "n", attr, sizeof attr, 0), EOPNOTSUPP);
        CHECK(set("n", 0) == 0);
    }
    CHECK(close(fd) == 0 && unlink("n") == 0);
}

static void growing(void) {
    int fd = open("a", O_RDWR | O_CREAT, 0644);
    CHECK(write(fd, "abc", 3) == 3 && set("a", FS_APPEND_FL) == 0 && get("a") == FS_APPEND_FL);
    CHECK_ERRNO(open("a", O_WRONLY), EPERM);
    CHECK_ERRNO(open("a", O_WRONLY | O_APPEND | O_TRUNC), EPERM);
    CHECK_ERRNO(ftruncate(fd, 1), EPERM);
    CHECK_ERRNO(truncate("a", 9), EPERM);
    CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    CHECK_ERRNO(unlink("a"), EPERM);
    CHECK_ERRNO(chmod("a", 0600), EPERM);
    int more = open("a", O_WRONLY | O_APPEND);
    struct timeval times[2] = {{1, 0}, {1, 0}};
    CHECK_ERRNO(fcntl(more, F_SETFL, 0), EPERM);
    CHECK(write(more, "d", 1) == 1 && utimes("a", 0) == 0);
    CHECK_ERRNO(utimes("a", times), EPERM);
    CHECK(set("a", FS_NODUMP_FL) == 0 && get("a") == FS_NODUMP_FL && unlink("a") == 0);
    CHECK(mkdir("da", 0755) == 0 && set("da", FS_APPEND_FL) == 0 && close(open("da/x", O_RDWR | O_CREAT, 0600)) == 0);
    CHECK_ERRNO(unlink("da/x"), EPERM);
    CHECK_ERRNO(rename("da/x", "x"), EPERM);
    CHECK(set("da", 0) == 0 && unlink("da/x") == 0 && rmdir("da") == 0);
    CHECK_ERRNO(set("/dev/null", FS_NODUMP_FL), ENOTTY);
    close(fd), close(more);
}

struct handle {
    unsigned bytes;
    int kind;
    unsigned char name[128];
};

static void handles(void) {
    struct handle h = {.bytes = 0}, other;
    int id = 0, here = open(".", O_RDONLY), fd = open("h", O_RDWR | O_CREAT, 0600);
    CHECK(write(fd, "text", 4) == 4);
    CHECK_ERRNO(name_to_handle_at(AT_FDCWD, "h", (void *)&h, &id, 0), EOVERFLOW);
    CHECK(h.bytes > 0 && h.bytes <= 128 && name_to_handle_at(AT_FDCWD, "h", (void *)&h, &id, 0) == 0 && id > 0);
    other = h;
    CHECK(name_to_handle_at(fd, "", (void *)&other, &id, AT_EMPTY_PATH) == 0 && !memcmp(&h, &other, 8 + h.bytes));
    char text[8] = "";
    int again = open_by_handle_at(here, (void *)&h, O_RDONLY);
    CHECK(again >= 0 && read(again, text, 8) == 4 && !strcmp(text, "text"));
    CHECK_ERRNO(write(again, "x", 1), EBADF);
    CHECK(rename("h", "g") == 0 && close(open_by_handle_at(here, (void *)&h, O_RDWR)) == 0);
    other.bytes = 0;
    CHECK_ERRNO(open_by_handle_at(here, (void *)&other, O_RDONLY), EINVAL);
    other.bytes = 129;
    CHECK_ERRNO(open_by_handle_at(here, (void *)&other, O_RDONLY), EINVAL);
    CHECK_ERRNO(open_by_handle_at(-1, (void *)&h, O_RDONLY), EBADF);
    CHECK_ERRNO(name_to_handle_at(AT_FDCWD, "none", (void *)&h, &id, 0), ENOENT);
    CHECK_ERRNO(name_to_handle_at(AT_FDCWD, "g", (void *)&h, &id, 0x8000), EINVAL);
    CHECK(symlink("g", "l") == 0 && name_to_handle_at(AT_FDCWD, "l", (void *)&other, &id, 0) == -1);
    other.bytes = 128;
    CHECK(name_to_handle_at(AT_FDCWD, "l", (void *)&other, &id, 0) == 0);
    CHECK_ERRNO(open_by_handle_at(here, (void *)&other, O_RDONLY), ELOOP);
    CHECK(unlink("l") == 0 && close(fd) == 0 && close(again) == 0 && unlink("g") == 0);
    CHECK_ERRNO(open_by_handle_at(here, (void *)&h, O_RDONLY), ESTALE);
    close(here);
}

static volatile sig_atomic_t heard, heard_fd;
static void on_change(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    heard++, heard_fd = info->si_fd;
}

static void directories(void) {
    struct sigaction action = {.sa_sigaction = on_change, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN, &action, 0);
    CHECK(mkdir("w", 0755) == 0);
    int fd = open("w", O_RDONLY), file = open("w/file", O_RDWR | O_CREAT, 0600);
    CHECK_ERRNO(fcntl(file, F_NOTIFY, DN_CREATE), ENOTDIR);
    CHECK(fcntl(fd, F_SETSIG, SIGRTMIN) == 0 && fcntl(fd, F_NOTIFY, DN_CREATE | DN_MODIFY) == 0);
    CHECK(heard == 0 && close(open("w/new", O_RDWR | O_CREAT, 0600)) == 0 && heard == 1 && heard_fd == fd);
    CHECK(close(open("w/more", O_RDWR | O_CREAT, 0600)) == 0 && heard == 1); /* once only */
    CHECK(fcntl(fd, F_NOTIFY, DN_DELETE | DN_ATTRIB | DN_MULTISHOT) == 0 && unlink("w/new") == 0 && heard == 2);
    CHECK(chmod("w/file", 0640) == 0 && heard == 3 && write(file, "x", 1) == 1 && heard == 3);
    CHECK(fcntl(fd, F_NOTIFY, DN_MODIFY | DN_MULTISHOT) == 0 && write(file, "x", 1) == 1 && heard == 4);
    heard = 0;
    CHECK(fcntl(fd, F_NOTIFY, 0) == 0 && fcntl(fd, F_NOTIFY, DN_RENAME | DN_MULTISHOT) == 0);
    CHECK(rename("w/more", "w/less") == 0 && heard == 1 && rename("w/less", "less") == 0 && rename("less", "w/less") == 0 && heard == 1);
    heard = 0;
    CHECK(fcntl(fd, F_NOTIFY, 0) == 0 && unlink("w/less") == 0 && heard == 0);
    CHECK(fcntl(fd, F_NOTIFY, DN_DELETE) == 0 && close(fd) == 0 && unlink("w/file") == 0 && heard == 0);
    CHECK(close(file) == 0 && rmdir("w") == 0);
}

/* struct mnt_id_req and struct statmount, which the headers may lack. */
struct request {
    uint32_t size, spare;
    uint64_t mount, parameter;
};

struct facts {
    uint32_t size, options;
    uint64_t mask;
    uint32_t major, minor;
    uint64_t magic;
    uint32_t sb_flags, type;
    uint64_t id, parent;
    uint32_t old_id, old_parent;
    uint64_t attributes, propagation, group, master, from;
    uint32_t root, point;
    uint64_t space;
    uint64_t rest[49];
    char text[512];
};

static void mounts(void) {
    struct statx top, inner;
    struct request r = {24, 0, 0, 0x2f};
    struct facts f;
    struct statfs s;
    uint64_t ids[64];
    CHECK(mkdir("m", 0755) == 0 && mount("src", "m", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NOATIME, 0) == 0 && statfs("m", &s) == 0);
    CHECK(statx(AT_FDCWD, ".", 0, 0x4000, &top) == 0 && statx(AT_FDCWD, "m", 0, 0x4000, &inner) == 0);
    r.mount = inner.stx_mnt_id;
    if (syscall(457, &r, &f, sizeof f, 0) == -1 && errno == ENOSYS) goto out; /* a host before 6.8 */
    CHECK(syscall(457, &r, &f, sizeof f, 0) == 0 && f.mask == 0x2f && f.size > 512 && f.id == r.mount);
    CHECK(f.parent == top.stx_mnt_id && f.magic == (uint64_t)s.f_type && f.sb_flags == MS_RDONLY && !strcmp(f.text + f.type, "tmpfs"));
    CHECK(f.attributes == (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME) && f.propagation == MS_PRIVATE);
    CHECK(!strcmp(f.text + f.root, "/"));
    r.parameter = 0x10;
    CHECK(syscall(457, &r, &f, sizeof f, 0) == 0 && strstr(f.text + f.point, "/m"));
    CHECK_ERRNO(syscall(457, &r, &f, 512, 0), EOVERFLOW);
    CHECK_ERRNO(syscall(457, &r, &f, sizeof f, 9), EINVAL);
    r.mount = 1;
    CHECK_ERRNO(syscall(457, &r, &f, sizeof f, 0), EINVAL);
    r.mount = 0xfffffffffffffff0;
    CHECK_ERRNO(syscall(457, &r, &f, sizeof f, 0), ENOENT);
    r = (struct request){24, 0, top.stx_mnt_id, 0};
    CHECK(syscall(458, &r, ids, 64, 0) == 1 && ids[0] == inner.stx_mnt_id);
    r.parameter = ids[0];
    CHECK(syscall(458, &r, ids, 64, 0) == 0);
    r = (struct request){24, 0, UINT64_MAX, 0};
    CHECK(syscall(458, &r, ids, 1, 0) == 1);
    CHECK_ERRNO(syscall(458, &r, 0, 1, 0), EFAULT);
    r.size = 0;
    CHECK_ERRNO(syscall(458, &r, ids, 1, 0), EINVAL);
out:
    CHECK(umount("m") == 0 && rmdir("m") == 0);
}

/* Access control lists in the form of their attributes. */
struct entry {
    uint16_t tag, perm;
    uint32_t id;
};

struct list {
    uint32_t version;
    struct entry entries[6];
};

static const char access_list[] = "system.posix_acl_access", default_list[] = "system.posix_acl_default";

/* A list that names user 77 and group 88. */
static struct list named(int user, int group, int mask) {
    return (struct list){2, {{1, 6, -1}, {2, user, 77}, {4, 0, -1}, {8, group, 88}, {16, mask, -1}, {32, 0, -1}}};
}

static int permissions(const char *name) {
    struct stat st;
    CHECK(stat(name, &st) == 0);
    return st.st_mode & 07777;
}

/* Whether another user may open it so. */
static int may(const char *name, int uid, int gid, int flags) {
    int fd;
    CHECK(setegid(gid) == 0 && seteuid(uid) == 0);
    fd = open(name, flags);
    CHECK(seteuid(0) == 0 && setegid(0) == 0);
    return fd >= 0 && close(fd) == 0;
}

static void lists(void) {
    struct list l = named(7, 6, 4), got;
    char names[256];
    CHECK(setgroups(0, 0) == 0 && chmod(".", 0755) == 0 && close(open("l", O_RDWR | O_CREAT, 02600)) == 0);
    CHECK_ERRNO(getxattr("l", access_list, &got, sizeof got), ENODATA);
    CHECK(!may("l", 77, 77, O_RDONLY) && setxattr("l", access_list, &l, sizeof l, 0) == 0 && permissions("l") == 02640);
    CHECK(getxattr("l", access_list, &got, sizeof got) == sizeof got && !memcmp(&l, &got, sizeof l));
    CHECK(getxattr("l", access_list, 0, 0) == sizeof l);
    CHECK_ERRNO(getxattr("l", access_list, &got, 8), ERANGE);
    CHECK(listxattr("l", names, sizeof names) == sizeof access_list && !strcmp(names, access_list));
    CHECK(may("l", 77, 77, O_RDONLY) && !may("l", 77, 77, O_RDWR) && may("l", 78, 88, O_RDONLY) && !may("l", 78, 88, O_RDWR));
    CHECK(!may("l", 78, 78, O_RDONLY) && !may("l", 78, 0, O_RDONLY) && chmod("l", 0662) == 0 && may("l", 78, 88, O_RDWR));
    CHECK(may("l", 78, 78, O_WRONLY) && !may("l", 78, 78, O_RDONLY));
    CHECK(getxattr("l", access_list, &got, sizeof got) == sizeof got && got.entries[4].perm == 6 && got.entries[5].perm == 2);
    CHECK(got.entries[2].perm == 0 && chmod("l", 0602) == 0 && !may("l", 77, 77, O_RDONLY));
    l.entries[1].perm = 8;
    CHECK_ERRNO(setxattr("l", access_list, &l, sizeof l, 0), EINVAL);
    l = named(7, 6, 4), l.entries[4].tag = 32;
    CHECK_ERRNO(setxattr("l", access_list, &l, sizeof l, 0), EINVAL);
    CHECK_ERRNO(setxattr("l", access_list, &l, sizeof l - 1, 0), EINVAL);
    l = named(7, 6, 4), l.version = 3;
    CHECK_ERRNO(setxattr("l", access_list, &l, sizeof l, 0), EOPNOTSUPP);
    CHECK(removexattr("l", access_list) == 0 && removexattr("l", access_list) == 0);
    CHECK_ERRNO(getxattr("l", access_list, &got, sizeof got), ENODATA);
    l = (struct list){2, {{1, 7, -1}, {4, 5, -1}, {32, 4, -1}}};
    CHECK(setxattr("l", access_list, &l, 28, 0) == 0 && permissions("l") == 0754);
    CHECK_ERRNO(getxattr("l", access_list, &got, sizeof got), ENODATA);
    CHECK_ERRNO(setxattr("l", default_list, &l, 28, 0), EACCES);
    CHECK(setxattr("l", default_list, "", 0, 0) == 0 && seteuid(77) == 0);
    CHECK_ERRNO(setxattr("l", access_list, &l, 28, 0), EPERM);
    CHECK(removexattr("l", default_list) == 0 && seteuid(0) == 0 && symlink("l", "ln") == 0);
    CHECK_ERRNO(lsetxattr("ln", access_list, &l, 28, 0), EOPNOTSUPP);
    CHECK_ERRNO(lgetxattr("ln", access_list, &got, sizeof got), EOPNOTSUPP);
    CHECK(chown("l", 5, 5) == 0 && chmod("l", 02770) == 0 && setxattr("l", access_list, &l, 28, 0) == 0 && permissions("l") == 02754);
    CHECK(unlink("l") == 0 && unlink("ln") == 0);
}

/* What is made in a directory with a default list; the umask says nothing there. */
static void inherited(void) {
    struct list l = named(5, 6, 6), got;
    CHECK(mkdir("d", 0755) == 0 && setxattr("d", default_list, &l, sizeof l, 0) == 0 && permissions("d") == 0755);
    umask(077);
    CHECK(close(open("d/f", O_RDWR | O_CREAT, 0666)) == 0 && permissions("d/f") == 0660);
    CHECK(getxattr("d/f", access_list, &got, sizeof got) == sizeof got && got.entries[1].perm == 5 && got.entries[4].perm == 6);
    CHECK_ERRNO(getxattr("d/f", default_list, &got, sizeof got), ENODATA);
    CHECK(mkdir("d/d", 0711) == 0 && permissions("d/d") == 0600);
    CHECK(getxattr("d/d", default_list, &got, sizeof got) == sizeof got && !memcmp(&l, &got, sizeof l));
    CHECK(getxattr("d/d", access_list, &got, sizeof got) == sizeof got && got.entries[4].perm == 0);
    CHECK(mknod("d/p", S_IFIFO | 0600, 0) == 0 && permissions("d/p") == 0600 && symlink("f", "d/s") == 0);
    CHECK(unlink("d/f") == 0 && unlink("d/p") == 0 && unlink("d/s") == 0 && rmdir("d/d") == 0);
    CHECK(removexattr("d", default_list) == 0 && close(open("d/f", O_RDWR | O_CREAT, 0666)) == 0 && permissions("d/f") == 0600);
    CHECK(unlink("d/f") == 0 && rmdir("d") == 0);
    umask(022);
}

int main(void) {
    umask(022);
    CHECK(unshare(CLONE_NEWNS) == 0 && mount(0, "/", 0, MS_PRIVATE | MS_REC, 0) == 0);
    CHECK(mkdtemp(directory) && mount("x", directory, "tmpfs", 0, 0) == 0 && chdir(directory) == 0);
    immutable();
    growing();
    newer();
    handles();
    directories();
    mounts();
    lists();
    inherited();
    CHECK(chdir("/") == 0 && umount(directory) == 0 && rmdir(directory) == 0);
    DONE();
}
