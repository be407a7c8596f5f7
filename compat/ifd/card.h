/* The card in a slot, as pcscd uses it: power, locks, APDUs. Functions return
 * OpenCT errors (openct/error.h).
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
 *  - A card that somebody else has locked for long cannot be powered up. */
#ifndef OPENCT_IFD_CARD_H
#define OPENCT_IFD_CARD_H

#include "place.h"

#include "internal.h"

enum {
	ATR_MAX = 33,
	SHORT_APDU_MAX = 261, /* header, Lc, 255 bytes of data, Le (ISO/IEC 7816-4, 5.1) */
};

struct card {
	unsigned int slot;
	struct place place;
	atomic_bool removed;       /* the device is unplugged, or the channel closes */

	pthread_mutex_t busy;      /* one command at a time; guards: */
	bool powered, locked;
	ct_lock_handle lock;       /* held, or the last one held */
	int protocol;              /* chosen by the program, -1: none */
	unsigned char atr[ATR_MAX];
	size_t atr_len;

	pthread_mutex_t ending;    /* taken last; with busy it guards changes of: */
	ct_handle *h;              /* NULL: not connected */
};

void card_init(struct card *c, unsigned int slot, const struct place *place);
void card_destroy(struct card *c);

/* Power up returns the length of the ATR. IFD_ERROR_LOCKED: another program
 * has the card; IFD_ERROR_DEVICE_BUSY: the daemon does not let us in, for others
 * wait already. */
int card_power_up(struct card *c);
int card_power_down(struct card *c);

/* Asks by taking the lock. Not now, if a command is under way. */
bool card_is_free(struct card *c);

/* The card was taken out. */
void card_gone(struct card *c);

/* The channel closes: the card is powered down. A command that is under way
 * gets a moment to end, then its connection is cut, so this always returns. */
void card_close(struct card *c);

int card_protocol(struct card *c, unsigned int protocol);
size_t card_atr(struct card *c, unsigned char atr[ATR_MAX]);
int card_transmit(struct card *c, const void *apdu, size_t len, void *resp, size_t size);

/* Any other request for the card. */
int card_request(struct card *c, struct oct_request *r, unsigned char tag, void *out, size_t size);

/* A request that does not touch the card; works without power and lock. */
int card_query(struct card *c, struct oct_request *r, struct oct_reply *reply);

/* The longest command APDU that reader, driver and card carry together. It is
 * SHORT_APDU_MAX, too, when the daemon cannot tell: C OpenCT's carries no more
 * than 514 bytes back. */
unsigned int card_max_command(struct card *c);

#endif
