/* The status file: what clients see in it, whatever is in it, and the
 * daemons' side. */
#include "check.h"
#include "fake.h"

#include <openct/logging.h>
#include <openct/openct.h>
#include <openct/path.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What fn writes to stderr. */
static const char *stderr_of(void (*fn)(void))
{
	static char text[512];
	int saved = dup(2), p[2];
	ssize_t n;

	if (saved < 0 || pipe(p) < 0 || dup2(p[1], 2) < 0)
		abort();
	close(p[1]);
	fn();
	fflush(stderr);
	dup2(saved, 2);
	close(saved);
	n = read(p[0], text, sizeof text - 1);
	close(p[0]);
	text[n > 0 ? n : 0] = '\0';
	return text;
}

static void info_quietly(void) { ct_reader_info(0, &(ct_info_t){ .ct_slots = 0 }); (void)ct_reader_connect(0); }
static void status_loudly(void) { const ct_info_t *p; CHECK_INT(ct_status(&p), -1); }

static pid_t dead_pid(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	return pid;
}

static void missing_file(void)
{
	char want[256];

	check_case("no file");
	unlink(world_path("status"));
	CHECK_STR(stderr_of(info_quietly), "");
	snprintf(want, sizeof want, "Error: can't open %s: No such file or directory\n", world_path("status"));
	CHECK_STR(stderr_of(status_loudly), want);
}

static void odd_files(void)
{
	static const struct { const char *name; off_t size; int count; } sizes[] = {
		{ "empty", 0, -1 }, { "half an entry", 107, -1 }, { "one entry", 108, 1 },
		{ "almost two", 215, 1 }, { "as it should be", 1728, 16 }, { "a suffix", 1800, 16 },
		{ "seventeen", 1836, 16 }, { "huge", 1 << 30, 16 },
	};
	const ct_info_t *p;

	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		int fd = open(world_path("new"), O_RDWR | O_CREAT | O_EXCL, 0644);
		char from[128];
		ct_info_t info;

		check_case(sizes[i].name);
		snprintf(from, sizeof from, "%s", world_path("new"));
		CHECK(fd >= 0 && ftruncate(fd, sizes[i].size) == 0);
		CHECK_INT(rename(from, world_path("status")), 0);
		close(fd);
		ct_log_destination("@syslog"); /* said, but not here */
		CHECK_INT(ct_status(&p), sizes[i].count);
		ct_log_destination("@stderr");
		for (unsigned int n = 0; n < 20; n++)
			CHECK_INT(ct_reader_info(n, &info), -1);
	}
	check_case("a directory, a pipe");
	unlink(world_path("status"));
	CHECK_INT(mkdir(world_path("status"), 0755), 0);
	CHECK_INT(ct_reader_info(0, &(ct_info_t){ .ct_slots = 0 }), -1);
	rmdir(world_path("status"));
	CHECK_INT(mkfifo(world_path("status"), 0644), 0);
	CHECK_INT(ct_reader_info(0, &(ct_info_t){ .ct_slots = 0 }), -1);
	unlink(world_path("status"));
}

static void who_is_there(void)
{
	ct_info_t info;
	struct { const char *name; pid_t pid; int want; } table[] = {
		{ "free", 0, -1 }, { "living", getpid(), 0 }, { "another user's", 1, 0 },
		{ "dead", dead_pid(), -1 }, { "pid -1", -1, -1 }, { "pid -2^31", -2147483647 - 1, -1 },
	};

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].name);
		world_reader(3, "Reader", 1);
		world_entries[3].ct_pid = table[i].pid;
		CHECK_INT(ct_reader_info(3, &info), table[i].want);
	}
	check_case("hostile entry");
	world_reader(3, "", 99);
	memset(world_entries[3].ct_name, 'x', 64);
	CHECK_INT(ct_reader_info(3, &info), 0);
	CHECK_INT(strlen(info.ct_name), 63);
	CHECK_INT(info.ct_slots, 8);
	world_reader(3, "\x1b[2J\r\n\x7f\xc3\xa4", 1); /* a message to a terminal */
	CHECK_INT(ct_reader_info(3, &info), 0);
	CHECK_STR(info.ct_name, "?[2J???\xc3\xa4");
	CHECK_INT(ct_reader_info(16, &info), -1);
	CHECK_INT(ct_reader_info(4000000000u, &info), -1);
	CHECK_INT(ct_reader_info(3, NULL), -1);
}

/* The changed bit is set once for each new card number, for each handle. */
static void card_status(void)
{
	static const struct { const char *name; unsigned int number; int want; } steps[] = {
		{ "no card yet", 0, 0 }, { "inserted", 7, 3 }, { "still there", 7, 1 },
		{ "another one", 8, 3 }, { "removed", 0, 0 }, { "the same number again", 8, 3 },
	};
	pid_t server;
	ct_handle *h, *second;
	ct_info_t info;
	int status;

	world_reader(0, "Virtual", 1);
	server = fake_script(0, NULL, 0);
	h = ct_reader_connect(0);
	second = ct_reader_connect(0);
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		check_case(steps[i].name);
		world_entries[0].ct_card[0] = steps[i].number;
		CHECK_INT(ct_card_status(h, 0, &status), 0);
		CHECK_INT(status, steps[i].want);
	}
	check_case("each handle has its own memory");
	CHECK_INT(ct_card_status(second, 0, &status), 0);
	CHECK_INT(status, 3);
	check_case("slots");
	status = 99;
	CHECK_INT(ct_card_status(h, 1, &status), 0); /* CT-API's second slot */
	CHECK_INT(status, 0);
	CHECK_INT(ct_card_status(h, 2, &status), -9);
	world_entries[0].ct_slots = 8;
	CHECK_INT(ct_card_status(h, 7, &status), 0);
	CHECK_INT(ct_card_status(h, 8, &status), -9);
	CHECK_INT(ct_card_status(h, 4000000000u, &status), -9);
	CHECK_INT(ct_card_status(NULL, 0, &status), -9);
	CHECK_INT(ct_card_status(h, 0, NULL), -9);
	CHECK_INT(ct_reader_status(h, &info), 0);
	CHECK_STR(info.ct_name, "Virtual");

	check_case("the status file is replaced");
	world_entries[0].ct_pid = 0; /* the old daemon leaves */
	world_renew_status();
	world_reader(0, "Virtual, again", 1);
	world_entries[0].ct_card[0] = 5;
	CHECK_INT(ct_card_status(h, 0, &status), 0);
	CHECK_INT(status, 3);
	CHECK_INT(ct_reader_status(h, &info), 0);
	CHECK_STR(info.ct_name, "Virtual, again");
	ct_reader_disconnect(h);
	ct_reader_disconnect(second);
	fake_end(server);
}

static void replaced_file(void)
{
	const ct_info_t *old, *new, *again;

	check_case("old mappings stay, new ones show");
	world_reader(2, "first", 1);
	CHECK_INT(ct_status(&old), 16);
	world_renew_status();
	world_reader(2, "second", 1);
	CHECK_INT(ct_status(&new), 16);
	CHECK(old != new);
	CHECK_STR(old[2].ct_name, "first");
	CHECK_STR(new[2].ct_name, "second");
	CHECK_INT(ct_status(&again), 16);
	CHECK(again == new);
	check_case("gone and back, as shutdown and init do");
	{
		char keep[128];
		ct_info_t info;

		snprintf(keep, sizeof keep, "%s", world_path(".status.keep"));
		CHECK_INT(rename(world_path("status"), keep), 0);
		CHECK_INT(ct_reader_info(2, &info), -1);
		CHECK_INT(rename(keep, world_path("status")), 0);
		CHECK_INT(ct_reader_info(2, &info), 0);
		CHECK_INT(ct_status(&again), 16);
		CHECK(again == new);
	}
}

/* Whoever may write the file may cut it: reads of a mapping would end the
 * program with SIGBUS. */
static void truncated_file_is_no_sigbus(void)
{
	static const struct { const char *name; off_t size; } sizes[] = {
		{ "cut to nothing", 0 }, { "cut in the middle of the entry", 50 },
	};
	ct_info_t info;
	ct_handle *h;
	pid_t server;
	int status;

	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		check_case(sizes[i].name);
		world_renew_status();
		world_reader(0, "Virtual", 1);
		world_entries[0].ct_card[0] = 1;
		server = fake_script(0, NULL, 0);
		h = ct_reader_connect(0);
		CHECK_INT(ct_card_status(h, 0, &status), 0);
		CHECK_INT(status, 3);
		CHECK_INT(truncate(world_path("status"), sizes[i].size), 0);
		CHECK_INT(ct_card_status(h, 0, &status), 0);
		CHECK_INT(status, 0);
		CHECK_INT(ct_reader_status(h, &info), 0);
		CHECK_STR(info.ct_name, "");
		CHECK_INT(info.ct_slots, 0);
		CHECK_INT(ct_reader_info(0, &info), -1);
		CHECK(ct_reader_connect(0) == NULL);
		CHECK_INT(truncate(world_path("status"), 1728), 0);
		world_reader(0, "Back", 1);
		CHECK_INT(ct_reader_status(h, &info), 0);
		CHECK_STR(info.ct_name, "Back");
		ct_reader_disconnect(h);
		fake_end(server);
	}
	check_case("the program has closed descriptors that it does not know");
	world_renew_status();
	world_reader(0, "Virtual", 1);
	server = fake_script(0, NULL, 0);
	h = ct_reader_connect(0);
	{
		int own[64], other[2];

		for (int fd = 3; fd < 64; fd++) {
			struct stat st, want;

			own[fd] = fstat(fd, &st) == 0 && stat(world_path("status"), &want) == 0 &&
				st.st_ino == want.st_ino && st.st_dev == want.st_dev;
			if (own[fd])
				close(fd);
		}
		CHECK_INT(pipe(other), 0); /* takes the number */
		CHECK_INT(ct_reader_status(h, &info), 0);
		CHECK_STR(info.ct_name, "Virtual");
		ct_reader_disconnect(h);
		CHECK_INT(write(other[1], "x", 1), 1); /* it was not closed */
		close(other[0]);
		close(other[1]);
	}
	fake_end(server);
}

static void *leave_later(void *crowd)
{
	fake_crowd_leave(crowd);
	return NULL;
}

/* A daemon that accepts nobody, for its queue is full, holds no program. */
static void full_queue_does_not_hold_connect(void)
{
	struct fake_crowd crowd;
	struct timespec a, b;
	pthread_t t;
	ct_handle *h;

	check_case("a full queue, for long");
	world_reader(0, "Virtual", 1);
	fake_crowd_open(&crowd, 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	CHECK(ct_reader_connect(0) == NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	CHECK(b.tv_sec - a.tv_sec <= 30);
	check_case("a full queue that empties while we wait");
	pthread_create(&t, NULL, leave_later, &crowd);
	h = ct_reader_connect(0);
	CHECK(h != NULL);
	pthread_join(t, NULL);
	ct_reader_disconnect(h);
	fake_crowd_close(&crowd);
}

static void paths(void)
{
	char out[64], name[200];

	check_case("paths");
	setenv("OPENCT_SOCKETDIR", "/some/where", 1);
	CHECK_INT(ct_format_path(out, sizeof out, "status"), 1);
	CHECK_STR(out, "/some/where/status");
	CHECK_INT(ct_format_path(out, 18, "status"), 0);
	CHECK_INT(ct_format_path(out, 19, "status"), 1);
	CHECK_INT(ct_format_path(out, 0, "status"), 0);
	CHECK_INT(ct_format_path(NULL, 9, "status"), 0);
	CHECK_INT(ct_format_path(out, sizeof out, NULL), 0);
	setenv("OPENCT_SOCKETDIR", "", 1);
	CHECK_INT(ct_format_path(out, sizeof out, "0"), 1);
	CHECK_STR(out, "/0");
	unsetenv("OPENCT_SOCKETDIR");
	CHECK_INT(ct_format_path(out, sizeof out, "0"), 1);
	CHECK_STR(out, "/run/openct/0");

	check_case("a socket path that does not fit is no other socket's");
	memset(name, 'd', sizeof name);
	name[0] = '/';
	name[150] = '\0';
	setenv("OPENCT_SOCKETDIR", name, 1);
	CHECK(ct_reader_connect(0) == NULL);
	setenv("OPENCT_SOCKETDIR", world_dir, 1);
}

static void daemons_side(void)
{
	const ct_info_t *all;
	ct_info_t *e;
	struct stat st;
	int n = -1;

	check_case("clear");
	CHECK_INT(ct_status_clear(0, NULL), -1);
	CHECK_INT(ct_status_clear(17, NULL), -1);
	CHECK_INT(ct_status_clear(16, NULL), 0);
	CHECK_INT(stat(world_path("status"), &st), 0);
	CHECK_INT(st.st_size, 1728);
	CHECK_INT(st.st_mode & 07777, 0644);

	check_case("allocate");
	e = ct_status_alloc_slot(&n);
	CHECK(e != NULL);
	CHECK_INT(n, 0);
	CHECK_INT(e->ct_pid, getpid());
	strcpy(e->ct_name, "mine");
	CHECK_INT(ct_status_update(e), 0);
	CHECK_INT(ct_status(&all), 16);
	CHECK_STR(all[0].ct_name, "mine");
	n = -1;
	CHECK(ct_status_alloc_slot(&n) != NULL);
	CHECK_INT(n, 1);
	check_case("a dead one's entry, cleared");
	e->ct_pid = dead_pid();
	n = -1;
	e = ct_status_alloc_slot(&n);
	CHECK_INT(n, 0);
	CHECK_STR(e->ct_name, "");
	check_case("a given entry");
	n = 1;
	CHECK(ct_status_alloc_slot(&n) != NULL);
	n = 16;
	CHECK(ct_status_alloc_slot(&n) == NULL);
	n = -2;
	CHECK(ct_status_alloc_slot(&n) == NULL);
	check_case("all taken");
	for (int i = 2; i < 16; i++) {
		n = -1;
		CHECK(ct_status_alloc_slot(&n) != NULL);
		CHECK_INT(n, i);
	}
	n = -1;
	CHECK(ct_status_alloc_slot(&n) == NULL);
	CHECK_INT(n, -1);
	check_case("destroy");
	CHECK_INT(ct_status_destroy(), 0);
	CHECK_INT(ct_status_destroy(), -1);
	n = -1;
	CHECK(ct_status_alloc_slot(&n) == NULL);
	CHECK_INT(ct_status_update(NULL), -1);
}

static void say_both(void) { ct_error("%s %d", "no", 1); ct_debug("yes"); }
static void say_nonsense(void) { ct_log_destination("file"); }

static void messages(void)
{
	unsigned char many[400];

	check_case("messages");
	CHECK_STR(stderr_of(say_both), "Error: no 1\nDebug: yes\n");
	CHECK_STR(stderr_of(say_nonsense), "Error: unknown log destination \"file\"\n");
	ct_log_destination("@syslog");
	CHECK_STR(stderr_of(say_both), "");
	ct_log_destination("@stderr");
	check_case("hexdump");
	CHECK_STR(ct_hexdump("\x00\xaf\x10", 3), " 00 af 10");
	CHECK_STR(ct_hexdump("", 0), "");
	CHECK_STR(ct_hexdump(NULL, 3), "");
	memset(many, 0, sizeof many);
	CHECK_INT(strlen(ct_hexdump(many, sizeof many)), 3 * 340);
	CHECK_INT(strlen(ct_hexdump(many, 340)), 3 * 340);
}

int main(void)
{
	world_open();
	missing_file();
	odd_files();
	world_renew_status();
	who_is_there();
	replaced_file();
	card_status();
	truncated_file_is_no_sigbus();
	full_queue_does_not_hold_connect();
	paths();
	daemons_side();
	messages();
	world_close();
	return check_result("status");
}
