/* fanotify by file handles: which records an event has for each kind of group and mark, what is merged, names, renames,
   processes, listeners without privilege, and marks that ignore. On a tmpfs of its own, as root. */
#define _GNU_SOURCE
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define DFID_FID (FAN_REPORT_DIR_FID | FAN_REPORT_FID)
#define mark(fd, flags, mask, path) fanotify_mark(fd, flags, mask, AT_FDCWD, path)

/* Objects whose handles are known by a name. */
static struct known {
    char name[16];
    struct file_handle handle;
    char bytes[MAX_HANDLE_SZ];
} known[16];
static int knowns;

static void know(const char *name, const char *path) {
    struct known *one = &known[knowns++];
    int id;
    strcpy(one->name, name);
    one->handle.handle_bytes = MAX_HANDLE_SZ;
    CHECK(knowns <= 16 && name_to_handle_at(AT_FDCWD, path, &one->handle, &id, 0) == 0);
}

static const char *name_of(struct file_handle *handle) {
    for (int i = knowns - 1; i >= 0; i--) {
        struct file_handle *own = &known[i].handle;
        if (own->handle_bytes == handle->handle_bytes && own->handle_type == handle->handle_type &&
            !memcmp(own->f_handle, handle->f_handle, own->handle_bytes))
            return known[i].name;
    }
    return "?";
}

static void show_record(struct fanotify_event_info_header *head) {
    if (head->info_type == FAN_EVENT_INFO_TYPE_PIDFD) {
        int pidfd = ((struct fanotify_event_info_pidfd *)head)->pidfd;
        CHECK(head->len == 8);
        printf(" pidfd:%s", pidfd >= 0 ? "open" : pidfd == FAN_NOPIDFD ? "none" : "bad");
        if (pidfd >= 0) close(pidfd);
        return;
    }
    struct fanotify_event_info_fid *fid = (void *)head;
    struct file_handle *handle = (void *)fid->handle;
    struct statfs facts;
    CHECK(statfs(".", &facts) == 0 && !memcmp(&facts.f_fsid, &fid->fsid, sizeof fid->fsid));
    int named = head->info_type != FAN_EVENT_INFO_TYPE_FID && head->info_type != FAN_EVENT_INFO_TYPE_DFID;
    char *name = (char *)handle->f_handle + handle->handle_bytes;
    unsigned bare = 20 + handle->handle_bytes + (named ? strlen(name) + 1 : 0);
    CHECK(head->len == (bare + 3) / 4 * 4);
    printf(" %d:%s%s%s", head->info_type, name_of(handle), named ? "/" : "", named ? name : "");
}

/* Prints and takes what is there. */
static void show(const char *what, int fd) {
    char buf[8192] __attribute__((aligned(8)));
    ssize_t count = read(fd, buf, sizeof buf);
    printf("%s:", what);
    for (struct fanotify_event_metadata *event = (void *)buf; FAN_EVENT_OK(event, count); event = FAN_EVENT_NEXT(event, count)) {
        printf(" [%llx%s", (unsigned long long)event->mask, event->pid == getpid() ? "" : event->pid ? " other" : " nobody");
        CHECK(event->fd == FAN_NOFD);
        for (unsigned at = event->metadata_len; at < event->event_len;) {
            struct fanotify_event_info_header *head = (void *)((char *)event + at);
            show_record(head);
            at += head->len;
        }
        printf("]");
    }
    printf("%s\n", count < 0 ? strerror(errno) : "");
}

static void work(void) {
    int fd = open("d/a", O_RDWR | O_CREAT, 0600);
    know("a", "d/a");
    CHECK(fd >= 0 && write(fd, "x", 1) == 1 && pread(fd, &fd, 1, 0) == 1);
    CHECK(rename("d/a", "d/b") == 0 && chmod("d/b", 0640) == 0 && truncate("d/b", 0) == 0);
    CHECK(link("d/b", "d/c") == 0 && unlink("d/c") == 0);
    close(3);
}

static void tree(void) {
    CHECK(mkdir("d/s", 0700) == 0);
    know("s", "d/s");
    CHECK(rename("d/s", "e/t") == 0 && rename("d/b", "e/b") == 0);
    closedir(opendir("e/t"));
    CHECK(rmdir("e/t") == 0 && unlink("e/b") == 0);
}

/* One round for one kind of group and mark. */
static void round_of(const char *what, unsigned group, unsigned how, unsigned long long mask, const char *place) {
    char text[100];
    knowns = 0;
    CHECK(mkdir("d", 0700) == 0 && mkdir("e", 0700) == 0);
    know("root", "."), know("d", "d"), know("e", "e");
    int low = open("/dev/null", O_RDONLY), fd = fanotify_init(group | FAN_NONBLOCK, O_RDONLY);
    CHECK(low == 3 && fd == 4 && mark(fd, FAN_MARK_ADD | how, mask, place) == 0);
    close(low);
    work();
    snprintf(text, sizeof text, "%s, file", what);
    show(text, fd);
    tree();
    snprintf(text, sizeof text, "%s, tree", what);
    show(text, fd);
    close(fd);
    CHECK(rmdir("d") == 0 && rmdir("e") == 0);
}

#define ENTRIES (FAN_CREATE | FAN_DELETE | FAN_MOVE)
#define SELF (FAN_ATTRIB | FAN_DELETE_SELF | FAN_MOVE_SELF)
#define PATHS (FAN_OPEN | FAN_CLOSE | FAN_ACCESS | FAN_MODIFY)

static void rounds(void) {
    static const struct { const char *name; unsigned group; } groups[] = {
        {"fid", FAN_REPORT_FID}, {"dir", FAN_REPORT_DIR_FID}, {"dir+fid", DFID_FID},
        {"name", FAN_REPORT_DFID_NAME}, {"name+fid", FAN_REPORT_DFID_NAME | FAN_REPORT_FID}, {"target", FAN_REPORT_DFID_NAME_TARGET},
    };
    char text[100];
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++) {
        unsigned group = groups[i].group;
        unsigned long long renames = group & FAN_REPORT_NAME ? FAN_RENAME : 0;
        snprintf(text, sizeof text, "%s system", groups[i].name);
        round_of(text, group, FAN_MARK_FILESYSTEM, ENTRIES | SELF | FAN_MODIFY | FAN_ONDIR | renames, ".");
        snprintf(text, sizeof text, "%s children", groups[i].name);
        round_of(text, group, 0, ENTRIES | SELF | PATHS | FAN_ONDIR | FAN_EVENT_ON_CHILD | renames, "d");
        snprintf(text, sizeof text, "%s entries", groups[i].name);
        round_of(text, group, 0, ENTRIES | renames, "d");
        snprintf(text, sizeof text, "%s into", groups[i].name);
        round_of(text, group, 0, ENTRIES | FAN_ONDIR | renames, "e");
        snprintf(text, sizeof text, "%s mount", groups[i].name);
        round_of(text, group, FAN_MARK_MOUNT, PATHS | FAN_ONDIR, ".");
    }
}

static void refused(void) {
    CHECK_ERRNO(fanotify_init(FAN_CLASS_CONTENT | FAN_REPORT_FID, O_RDONLY), EINVAL);
    CHECK_ERRNO(fanotify_init(FAN_REPORT_NAME, O_RDONLY), EINVAL);
    CHECK_ERRNO(fanotify_init(FAN_REPORT_FID | FAN_REPORT_NAME, O_RDONLY), EINVAL);
    CHECK_ERRNO(fanotify_init(FAN_REPORT_DFID_NAME | FAN_REPORT_TARGET_FID, O_RDONLY), EINVAL);
    CHECK_ERRNO(fanotify_init(FAN_REPORT_PIDFD | FAN_REPORT_TID, O_RDONLY), EINVAL);
    int plain = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), fids = fanotify_init(DFID_FID, O_RDONLY);
    int target = fanotify_init(FAN_REPORT_DFID_NAME_TARGET, O_RDONLY), pair[2];
    close(open("f", O_CREAT | O_RDWR, 0600));
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD, FAN_CREATE, "."), EINVAL);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD, FAN_ATTRIB, "."), EINVAL);
    CHECK_ERRNO(mark(fids, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_ATTRIB, "."), EINVAL);
    CHECK_ERRNO(mark(fids, FAN_MARK_ADD, FAN_RENAME, "."), EINVAL);
    CHECK_ERRNO(mark(fids, FAN_MARK_ADD, FAN_FS_ERROR, "."), EINVAL);
    CHECK(mark(fids, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_FS_ERROR, ".") == 0);
    CHECK_ERRNO(mark(fids, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, "/proc"), EOPNOTSUPP);
    CHECK_ERRNO(mark(target, FAN_MARK_ADD, FAN_DELETE, "f"), ENOTDIR);
    CHECK_ERRNO(mark(target, FAN_MARK_ADD, FAN_OPEN | FAN_ONDIR, "f"), ENOTDIR);
    CHECK(mark(target, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_DELETE | FAN_ONDIR, "f") == 0);
    CHECK(mark(fids, FAN_MARK_ADD, FAN_DELETE | FAN_ONDIR, "f") == 0);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_IGNORE, FAN_OPEN, "."), EISDIR);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_MOUNT, FAN_OPEN, "."), EINVAL);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_IGNORE | FAN_MARK_IGNORED_MASK, FAN_OPEN, "f"), EINVAL);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_EVICTABLE | FAN_MARK_MOUNT, FAN_OPEN, "."), EINVAL);
    CHECK(mark(plain, FAN_MARK_ADD, FAN_OPEN, "f") == 0);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_EVICTABLE, FAN_OPEN, "f"), EEXIST);
    CHECK(mark(plain, FAN_MARK_ADD | FAN_MARK_IGNORE_SURV, FAN_OPEN, "f") == 0);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK, FAN_OPEN, "f"), EEXIST);
    CHECK_ERRNO(mark(plain, FAN_MARK_ADD | FAN_MARK_IGNORE, FAN_OPEN, "f"), EEXIST);
    CHECK(pipe(pair) == 0);
    CHECK_ERRNO(fanotify_mark(plain, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_ACCESS, pair[0], NULL), EINVAL);
    close(pair[0]), close(pair[1]), close(plain), close(fids), close(target), unlink("f");
}

/* What is ignored has options of its own. */
static void ignoring(void) {
    int fd = fanotify_init(FAN_REPORT_DFID_NAME | FAN_NONBLOCK, O_RDONLY);
    knowns = 0;
    CHECK(mkdir("d", 0700) == 0);
    know("root", "."), know("d", "d");
    CHECK(mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN | FAN_CREATE | FAN_ONDIR, ".") == 0);
    CHECK(mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORE_SURV, FAN_OPEN | FAN_EVENT_ON_CHILD, "d") == 0);
    close(open("d/x", O_CREAT | O_RDWR, 0600)), close(open("d", O_RDONLY));
    show("children ignored", fd);
    CHECK(mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORE_SURV, FAN_ONDIR, "d") == 0);
    close(open("d/x", O_RDWR)), close(open("d", O_RDONLY));
    show("both ignored", fd);
    CHECK(mark(fd, FAN_MARK_REMOVE | FAN_MARK_IGNORE, FAN_EVENT_ON_CHILD, "d") == 0);
    close(open("d/x", O_RDWR)), close(open("d", O_RDONLY));
    show("itself ignored", fd);
    close(fd);
    CHECK(unlink("d/x") == 0 && rmdir("d") == 0);
}

/* Handles that events bring can be opened, until what they name is gone. */
static void opening(void) {
    char buf[512] __attribute__((aligned(8)));
    int fd = fanotify_init(FAN_REPORT_DFID_NAME, O_RDONLY), here = open(".", O_RDONLY);
    struct stat one, other;
    CHECK(mkdir("d", 0700) == 0 && mark(fd, FAN_MARK_ADD, FAN_CREATE, "d") == 0);
    close(open("d/x", O_CREAT | O_RDWR, 0600));
    CHECK(read(fd, buf, sizeof buf) > 0);
    struct fanotify_event_info_fid *fid = (void *)(buf + 24);
    int dir = open_by_handle_at(here, (void *)fid->handle, O_RDONLY);
    CHECK(dir >= 0 && fstat(dir, &one) == 0 && stat("d", &other) == 0 && one.st_ino == other.st_ino);
    CHECK(unlinkat(dir, "x", 0) == 0 && close(dir) == 0 && rmdir("d") == 0);
    CHECK_ERRNO(open_by_handle_at(here, (void *)fid->handle, O_RDONLY), ESTALE);
    close(fd), close(here);
}

static void processes(void) {
    int status, fd = fanotify_init(FAN_REPORT_PIDFD | FAN_REPORT_FID | FAN_NONBLOCK, O_RDONLY);
    knowns = 0;
    close(open("f", O_CREAT | O_RDWR, 0600));
    know("f", "f");
    CHECK(mark(fd, FAN_MARK_ADD, FAN_OPEN, "f") == 0);
    close(open("f", O_RDONLY));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(open("f", O_RDONLY) < 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    show("processes", fd);
    close(fd);
    /* Who has no privilege is told of what it may read, by handles, and not by whom. */
    CHECK(chmod("f", 0644) == 0 && chmod(".", 0755) == 0);
    fflush(stdout);
    int pair[2];
    CHECK(pipe(pair) == 0);
    child = fork();
    if (child == 0) {
        CHECK(setuid(4242) == 0);
        CHECK_ERRNO(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY), EPERM);
        CHECK_ERRNO(fanotify_init(FAN_REPORT_FID | FAN_REPORT_TID, O_RDONLY), EPERM);
        CHECK_ERRNO(fanotify_init(FAN_REPORT_FID | FAN_UNLIMITED_MARKS, O_RDONLY), EPERM);
        fd = fanotify_init(FAN_REPORT_FID, O_RDONLY);
        CHECK_ERRNO(mark(fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, "."), EPERM);
        CHECK(fd >= 0 && mark(fd, FAN_MARK_ADD, FAN_OPEN, "f") == 0);
        close(open("f", O_RDONLY));
        show("own", fd);
        CHECK(write(pair[1], "x", 1) == 1);
        show("others'", fd);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    char c;
    CHECK(read(pair[0], &c, 1) == 1);
    close(open("f", O_RDONLY));
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(pair[0]), close(pair[1]), unlink("f");
}

/* Who lists a directory asks first, if the mark says so. */
static void listing(void) {
    int fd = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY), status;
    CHECK(mkdir("d", 0700) == 0 && mark(fd, FAN_MARK_ADD, FAN_ACCESS_PERM | FAN_ONDIR, "d") == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char entries[512];
        int dir = open("d", O_RDONLY);
        CHECK_ERRNO(getdents64(dir, entries, sizeof entries), EPERM);
        CHECK(getdents64(dir, entries, sizeof entries) > 0);
        fflush(stdout);
        _exit(check_failures != 0);
    }
    for (int response = FAN_DENY; response >= FAN_ALLOW; response--) {
        struct fanotify_event_metadata event;
        CHECK(read(fd, &event, sizeof event) == 24 && event.mask == FAN_ACCESS_PERM && event.pid == child);
        struct fanotify_response reply = {event.fd, response};
        CHECK(write(fd, &reply, sizeof reply) == sizeof reply);
        close(event.fd);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(fd);
    CHECK(rmdir("d") == 0);
}

int main(void) {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", "/mnt", "tmpfs", 0, NULL) != 0 || chdir("/mnt") != 0) {
        printf("no mounts\n");
        return 0;
    }
    refused();
    rounds();
    ignoring();
    opening();
    processes();
    listing();
    CHECK(chdir("/") == 0 && umount("/mnt") == 0);
    DONE();
}
