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

/* A packet is at most 4096 bytes, header included (spec/socket-protocol.md, 2). */
enum {
	OCT_HEADER = 12,
	OCT_PACKET = 4096,
	OCT_PAYLOAD = OCT_PACKET - OCT_HEADER,
	OCT_TLV = 3,                               /* tag and two-byte length */
	OCT_APDU_MAX = OCT_PAYLOAD - 2 - OCT_TLV,  /* 4079, after command and unit */
	OCT_RESPONSE_MAX = OCT_PAYLOAD - OCT_TLV,  /* 4081 */
	OCT_MESSAGE_MAX = 127,                     /* servers cut longer prompts */
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

struct ct_handle {
	unsigned int reader;
	_Atomic(const ct_info_t *) entry;           /* in a mapping, which stays */
	atomic_uint seen[OPENCT_MAX_SLOTS];         /* card numbers last reported */

	pthread_mutex_t lock;                       /* one call at a time; guards: */
	int fd;                                     /* -1: no connection */
	bool broken;                                /* the connection is of no use */
	bool inherited;                             /* made by fork: connect anew */

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

/* Copies the value to out. Its length; IFD_ERROR_GENERIC when it is missing or
 * the reply malformed; IFD_ERROR_BUFFER_TOO_SMALL. */
int oct_reply_bytes(const struct oct_reply *r, unsigned char tag, void *out, size_t size);

/* socket.c */
int oct_connect(unsigned int reader); /* descriptor, or -1 with errno */
bool oct_send(int fd, uint32_t xid, const struct oct_request *r);

/* Waits for the reply to xid, with error as in its header (never above 0).
 * False: the connection is of no use any more. */
bool oct_receive(int fd, uint32_t xid, struct oct_reply *r, int *error);

/* handle.c */

/* Sends the request and waits for its reply. 0, or an error: the server's,
 * IFD_ERROR_NOT_CONNECTED when it cannot be sent, IFD_ERROR_GENERIC when the
 * server goes away or breaks the protocol; both of these end the connection.
 * The request is wiped: it may hold a PIN. */
int oct_call(ct_handle *h, struct oct_request *r, struct oct_reply *reply);

/* The reader's entry in the newest status file that shows it. */
const ct_info_t *oct_handle_entry(ct_handle *h);

/* client.c */

/* The call and its one answer; reply's length or an error. */
int oct_call_bytes(ct_handle *h, struct oct_request *r, unsigned char tag,
		void *out, size_t size);

/* status.c */
struct oct_map {
	const ct_info_t *entries;
	unsigned int count;
	dev_t dev;
	ino_t ino;
	struct oct_map *next;
};

/* The mapping of the status file that is there now, or NULL with errno. */
const struct oct_map *oct_status_map(void);

/* A copy that is safe to use whatever is in the file. */
void oct_info_copy(ct_info_t *out, const ct_info_t *entry);
bool oct_pid_alive(pid_t pid);
bool oct_join_path(char *out, size_t size, const char *file);

/* log.c */

/* A message of the library itself: said only when the program has chosen a
 * destination for messages. */
void oct_note(const char *fmt, ...) OPENCT_PRINTF;

#endif
