/* What the parts of libopenct share. Nothing here is exported; the PC/SC
 * bundle links the same objects. */
#ifndef OPENCT_INTERNAL_H
#define OPENCT_INTERNAL_H

/* The ABI and nothing else is visible: its declarations come first, here. */
#pragma GCC visibility push(default)
#include <openct/logging.h>
#include <openct/openct.h>
#include <openct/path.h>
#pragma GCC visibility pop
#include <openct/protocol.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* A packet is at most 4096 bytes, header included (internal/socket/PROTOCOL.md, Packets). */
enum {
	OCT_HEADER = 12,
	OCT_PACKET = 4096,
	OCT_PAYLOAD = OCT_PACKET - OCT_HEADER,
	OCT_TLV = 3,                               /* tag and two-byte length */
	OCT_APDU_MAX = OCT_PAYLOAD - 2 - OCT_TLV,  /* 4079, after command and unit */
	OCT_RESPONSE_MAX = OCT_PAYLOAD - OCT_TLV,  /* 4081 */
	OCT_MESSAGE_MAX = 127,                     /* servers cut longer prompts */
	OCT_CONNECT_MS = 2000,                     /* a program waits so long to be accepted */
};

struct oct_request {
	size_t len;
	bool overflow; /* an argument did not fit */
	unsigned char payload[OCT_PAYLOAD];
};

struct oct_reply {
	size_t len;
	unsigned char payload[OCT_PAYLOAD];
};

/* A status file held open. The descriptor's number may have become another
 * file's: programs close what they do not know. dev and ino tell. */
struct oct_status {
	int fd; /* -1: none */
	dev_t dev;
	ino_t ino;
};

struct ct_handle {
	unsigned int reader;
	atomic_uint seen[OPENCT_MAX_SLOTS];         /* card numbers last reported */

	pthread_mutex_t looking;                    /* guards: */
	struct oct_status status;                   /* the status file that shows the reader */

	pthread_mutex_t lock;                       /* one call at a time; guards: */
	int fd;                                     /* -1: no connection */
	bool broken;                                /* the connection is of no use */
	bool inherited;                             /* made by fork: connect anew */
	int answer_ms;                              /* a reply may take so long; 0: any time */

	struct ct_handle *prev, *next;              /* list of all, see handle.c */
};

/* tlv.c */
void oct_request_init(struct oct_request *r, unsigned char command, unsigned int unit);
void oct_put_int(struct oct_request *r, unsigned char tag, unsigned int value);
void oct_put_bytes(struct oct_request *r, unsigned char tag, const void *data, size_t len);

/* Finds the last value with this tag. 1: found; 0: not there; -1: the payload
 * is malformed, somewhere. */
int oct_tlv_find(const unsigned char *payload, size_t len, unsigned char tag,
		const unsigned char **value, size_t *value_len);

/* A number: big endian, of which the low 32 bits count. False when it is
 * missing or the reply malformed. */
bool oct_reply_int(const struct oct_reply *r, unsigned char tag, unsigned int *value);

/* Copies the value to out. Its length; IFD_ERROR_GENERIC when it is missing or
 * the reply malformed; IFD_ERROR_BUFFER_TOO_SMALL. */
int oct_reply_bytes(const struct oct_reply *r, unsigned char tag, void *out, size_t size);

/* socket.c */

/* A descriptor, or -1 with errno. EAGAIN: the reader is served, but its daemon
 * did not accept a connection within wait_ms, because others wait already. */
int oct_connect(unsigned int reader, int wait_ms);

long long oct_now_ms(void); /* of the monotonic clock */

/* The daemon at the other end of a connection is gone. */
bool oct_hung_up(int fd);

bool oct_send(int fd, uint32_t xid, const struct oct_request *r);

/* Waits for the reply to xid, with error as in its header (never above 0), at
 * most wait_ms where that is not 0. False: the connection is of no use any more. */
bool oct_receive(int fd, uint32_t xid, int wait_ms, struct oct_reply *r, int *error);

/* handle.c */

/* Sends the request and waits for its reply. 0, or an error: the server's,
 * IFD_ERROR_NOT_CONNECTED when it cannot be sent, IFD_ERROR_GENERIC when the
 * server goes away or breaks the protocol; both of these end the connection.
 * The request is wiped: it may hold a PIN. */
int oct_call(ct_handle *h, struct oct_request *r, struct oct_reply *reply);

/* ct_reader_connect that waits wait_ms to be accepted; NULL with errno. */
ct_handle *oct_handle_open(unsigned int reader, int wait_ms);

/* The reader's entry, as oct_status_entry gives it. */
void oct_handle_entry(ct_handle *h, ct_info_t *out);

/* client.c */

/* The call and its one answer; reply's length or an error. */
int oct_call_bytes(ct_handle *h, struct oct_request *r, unsigned char tag,
		void *out, size_t size);

/* status.c: the file is read, never mapped, except for ct_status(): whoever may
 * write it may also cut it, and a mapping's lost pages raise SIGBUS. */

/* Copies the entries of the status file that is there now; returns how many
 * there are, or -1 with errno. The copies are safe to use whatever is in the
 * file. */
int oct_status_read(ct_info_t out[OPENCT_MAX_READERS]);

/* Copies a reader's entry: from the file in s while that shows a daemon, then
 * from the one that is there now, which s becomes. False with errno, and zeros,
 * when neither has the entry. */
bool oct_status_entry(struct oct_status *s, unsigned int reader, ct_info_t *out);
void oct_status_close(struct oct_status *s);

bool oct_pid_alive(pid_t pid);
bool oct_join_path(char *out, size_t size, const char *file);

/* log.c */

/* A message of the library itself: said only when the program has chosen a
 * destination for messages. */
void oct_note(const char *fmt, ...) OPENCT_PRINTF;

#endif
