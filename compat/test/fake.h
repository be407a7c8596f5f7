/* Readers that are not there: a socket directory of the test's own, and
 * servers in child processes. */
#ifndef OPENCT_TEST_FAKE_H
#define OPENCT_TEST_FAKE_H

#include <openct/openct.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A directory with a status file of 16 free entries; OPENCT_SOCKETDIR names
 * it. world_entries may be written to. */
extern char world_dir[64];
extern ct_info_t *world_entries;
void world_open(void);
void world_close(void);
void world_renew_status(void);      /* another file in its place, another inode */
char *world_path(const char *file); /* static buffer */
void world_touch(void);             /* as a daemon does after news in the file */
void world_side_file(unsigned int reader, const char *json);

/* Fills an entry that belongs to this, living, process. */
void world_reader(unsigned int reader, const char *name, unsigned int slots);

/* A scripted server: it expects these requests, over all its connections, in
 * this order, and answers them so.
 *	want   payload in hex
 *	reply  payload in hex | "!-7" an error | "close" | "@" and the raw bytes of
 *	       packets, in which xxxxxxxx stands for the request's xid */
struct exchange {
	const char *want;
	const char *reply;
};

pid_t fake_script(unsigned int reader, const struct exchange *script, size_t count);
#define FAKE_SCRIPT(reader, script) \
	fake_script(reader, script, sizeof(script) / sizeof(script)[0])

/* Waits for the server; fails the test when it met another request than it
 * expected, or none. All connections must be closed before. */
void fake_end(pid_t server);

/* A reader with cards that behave, in shared memory so that test and server
 * both see it. TRANSACT answers with the APDU and 9000; INS FF makes the
 * server end, FE hold its breath until `release`. */
struct fake_reader {
	char atr[2][80];             /* hex; "" for a card without */
	bool knows_change_pin;
	unsigned int max_command;    /* 0: a daemon that does not know LIMITS */
	char verify_reply[16];       /* hex, or "!-12" */
	char eject_reply[8];         /* "", or "!-12" */
	atomic_uint connections;
	atomic_uint release;
	atomic_uint waiting;
	atomic_uint logged;          /* requests in log */
	char log[512][160];          /* payloads in hex, cut */
};

struct fake_reader *fake_reader_new(void);
pid_t fake_reader_serve(unsigned int reader, struct fake_reader *r);
void fake_kill(pid_t server);

/* Whether the log has these payloads in this order from entry *from on (and
 * moves it behind them); nothing else may be between. */
void fake_expect_log(struct fake_reader *r, unsigned int *from, const char *const *want, size_t count,
		const char *file, int line);
/* A reader whose queue of connections is full, for nobody accepts. */
struct fake_crowd {
	int listener;
	int waiting[64];
	size_t count;
};
void fake_crowd_open(struct fake_crowd *c, unsigned int reader);
void fake_crowd_leave(struct fake_crowd *c); /* the queue is empty again */
void fake_crowd_close(struct fake_crowd *c);

#define FAKE_LOG(r, from, ...) do { \
	const char *const want_[] = { __VA_ARGS__ }; \
	fake_expect_log(r, from, want_, sizeof want_ / sizeof want_[0], __FILE__, __LINE__); \
} while (0)

#endif
