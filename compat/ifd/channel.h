/* A channel: one card slot of one reader, as pcscd sees it: which channels there
 * are, and what each slot holds. A card that somebody else has locked for long
 * cannot be powered up. It is reported as absent until the lock is gone: pcscd,
 * which would not try again otherwise, takes it for a card put in. */
#ifndef OPENCT_IFD_CHANNEL_H
#define OPENCT_IFD_CHANNEL_H

#include "card.h"

enum { CARD_NONE = 0 };    /* what a slot holds: none, the number of a card (1 and up) ... */
#define READER_GONE (~0u)  /* ... or there is no reader */

struct channel {
	struct channel *next;
	unsigned long lun;         /* reader in the upper 16 bits, slot in the lower */
	unsigned int users;        /* calls inside, and one for the table */
	struct card card;
	atomic_bool refused;       /* power up met somebody else's lock */

	pthread_mutex_t watching;  /* guards: */
	unsigned int reader;       /* OpenCT's number, as last found */
	struct oct_status status;  /* the status file that shows it */
	bool announced;            /* its daemon announces news of cards */
	int line;                  /* idle connection: hangs up when the daemon ends; -1: none */
	long long since, retry;    /* when it was made, and when to make another one */
	unsigned int brief;        /* so many in a row ended soon */
	bool crowded;              /* none, for the daemon has no place for it */
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

/* Power up, of which a refusal shows in channel_presence. */
int channel_power_up(struct channel *c);

/* Presence: what the slot holds now. A card exchanged unseen shows as none
 * once, then as itself. */
unsigned int channel_presence(struct channel *c);

/* Returns when there is news for channel_presence, after ms, or when woken. */
void channel_wait(struct channel *c, int ms);
void channel_wake(struct channel *c);

/* The reader's entry of the status file; zeros when it is gone. Its number, or
 * -1. */
int channel_info(struct channel *c, ct_info_t *info);

#endif
