/* A channel: one card slot of one reader, as pcscd uses it. Functions return
 * OpenCT errors (openct/error.h), whose names clash with pcscd's; the entry
 * points in ifd.c translate.
 *
 * Locks of the reader are shared with other OpenCT programs like this:
 *  - Powering the card up (pcscd does so whenever a card is put in) or resetting
 *    it takes the exclusive lock for as long as that lasts, and gives it back.
 *  - The first use after that takes it again and keeps it until the next reset,
 *    or until the card is powered down: pcscd does that some seconds after the
 *    last program left without resetting the card. The daemon
 *    numbers locks: if anybody had one in between, the card is reset again, for
 *    it is not in the state that the program expects.
 *  - Powering down a card that somebody else used since leaves it alone.
 *  - A card that somebody else has locked for long cannot be powered up. It is
 *    reported as absent until the lock is gone: pcscd, which would not try again
 *    otherwise, takes it for a card put in. */
#ifndef OPENCT_IFD_CHANNEL_H
#define OPENCT_IFD_CHANNEL_H

#include "place.h"

#include "internal.h"

enum {
	ATR_MAX = 33,
	CARD_NONE = 0, /* what a slot holds: none, the number of a card (1 and up) ... */
};

#define READER_GONE (~0u) /* ... or there is no reader */

struct channel {
	struct channel *next;
	unsigned long lun;         /* reader in the upper 16 bits, slot in the lower */
	unsigned int users;        /* calls inside, and one for the table */
	unsigned int slot;
	struct place place;
	atomic_bool refused;       /* power up met somebody else's lock */
	atomic_bool removed;       /* pcscd says that the device is unplugged */

	pthread_mutex_t busy;      /* one command at a time; guards: */
	ct_handle *h;              /* NULL: not connected */
	bool powered, locked;
	ct_lock_handle lock;       /* held, or the last one held */
	int protocol;              /* chosen by the program, -1: none */
	unsigned char atr[ATR_MAX];
	size_t atr_len;

	pthread_mutex_t watching;  /* guards: */
	unsigned int reader;       /* OpenCT's number, as last found */
	const ct_info_t *entry;    /* in the status file */
	bool announced;            /* its daemon announces news of cards */
	int line;                  /* idle connection: hangs up when the daemon ends */
	bool lost;                 /* it did since the card was last reported */
	unsigned int reported;     /* what pcscd was last told */
	int events;                /* dirwatch */
	int stop;                  /* eventfd: ends channel_wait */
};

/* The table of channels. channel_open returns 1 for a device that no daemon
 * serves yet; channel_get finds a channel and keeps it until channel_put. */
int channel_open(unsigned long lun, const struct place *place);
void channel_close(unsigned long lun);
struct channel *channel_get(unsigned long lun);
void channel_put(struct channel *c);

/* Presence: what the slot holds now. A card exchanged unseen shows as none
 * once, then as itself. */
unsigned int channel_presence(struct channel *c);

/* Returns when there is news for channel_presence, after ms, or when woken. */
void channel_wait(struct channel *c, int ms);
void channel_wake(struct channel *c);

/* The reader's entry of the status file; zeros when it is gone. */
void channel_info(struct channel *c, ct_info_t *info);

/* Power: the length of the ATR in c->atr, or an error. Callers of these and
 * the following hold nothing; they take c->busy. */
int channel_power_up(struct channel *c);
bool channel_lock_is_free(struct channel *c);
int channel_power_down(struct channel *c);
int channel_protocol(struct channel *c, unsigned int protocol);
void channel_card_gone(struct channel *c);
size_t channel_atr(struct channel *c, unsigned char atr[ATR_MAX]);

int channel_transmit(struct channel *c, const void *apdu, size_t len, void *resp, size_t size);

/* Any other request for the card. */
int channel_request(struct channel *c, struct oct_request *r, unsigned char tag,
		void *out, size_t size);

/* A request that does not touch the card; works without power and lock. */
int channel_query(struct channel *c, struct oct_request *r);

/* The daemon at the other end of a connection is gone. */
bool hung_up(int fd);

/* To pcscd's log. */
enum log_level { LOG_AS_INFO = 1, LOG_AS_ERROR = 2 };
void channel_log(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
