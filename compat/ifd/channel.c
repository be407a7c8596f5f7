#include "channel.h"
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	START_MS = 5000,   /* how long a reader may take to start */
	UNAWARE_MS = 1000, /* how often to look where a daemon does not announce news, ... */
	REFUSED_MS = 500,  /* ... and for somebody else's lock to go */
	LINE_MS = 1000,    /* a daemon that hangs up sooner, so many times, ... */
	BRIEF_LINES = 8,   /* ... is not asked again so soon */
	LONG_MS = 600000,
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct channel *table;

static void destroy(struct channel *c)
{
	card_destroy(&c->card);
	oct_status_close(&c->status);
	if (c->line >= 0)
		close(c->line);
	if (c->events >= 0)
		close(c->events);
	if (c->stop >= 0)
		close(c->stop);
	pthread_mutex_destroy(&c->watching);
	explicit_bzero(c, sizeof *c);
	free(c);
}

static struct channel *create(unsigned long lun, const struct place *place)
{
	struct channel *c = calloc(1, sizeof *c);

	if (!c)
		return NULL;
	c->lun = lun;
	c->users = 1;
	card_init(&c->card, (unsigned int)(lun & 0xffff), place);
	c->status.fd = -1;
	c->line = -1;
	c->events = dirwatch_open();
	c->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&c->watching, NULL);
	if (c->events < 0 || c->stop < 0) {
		destroy(c);
		return NULL;
	}
	return c;
}

/* A device with several interfaces is offered to us once for each: the first
 * one stands for all. */
static bool served_elsewhere_locked(unsigned long lun, const struct place *place)
{
	for (const struct channel *c = table; c; c = c->next)
		if (!place->fixed && place_equal(&c->card.place, place) && c->lun >> 16 != lun >> 16 &&
				!atomic_load(&c->card.removed))
			return true;
	return false;
}

static struct channel *find_locked(unsigned long lun)
{
	struct channel *c = table;

	while (c && c->lun != lun)
		c = c->next;
	return c;
}

int channel_open(unsigned long lun, const struct place *place)
{
	struct channel *c;
	bool known, elsewhere, served;

	pthread_mutex_lock(&table_lock);
	known = find_locked(lun) != NULL;
	elsewhere = served_elsewhere_locked(lun, place);
	pthread_mutex_unlock(&table_lock);
	if (known)
		return 0;
	if (elsewhere)
		return IFD_ERROR_DEVICE_BUSY;

	c = create(lun, place);
	if (!c)
		return IFD_ERROR_NO_MEMORY;
	/* The daemon of a token that was plugged in a moment ago is about to start. One
	 * that comes later finds its channel here: until then there is no card. */
	served = place->fixed || place_wait(place, &c->reader, START_MS);
	pthread_mutex_lock(&table_lock);
	known = find_locked(lun) != NULL;
	if (!known) {
		c->next = table;
		table = c;
	}
	pthread_mutex_unlock(&table_lock);
	if (known)
		destroy(c);
	return served ? 0 : 1;
}

struct channel *channel_get(unsigned long lun)
{
	struct channel *c;

	pthread_mutex_lock(&table_lock);
	c = find_locked(lun);
	if (c)
		c->users++;
	pthread_mutex_unlock(&table_lock);
	return c;
}

void channel_put(struct channel *c)
{
	unsigned int left;

	pthread_mutex_lock(&table_lock);
	left = --c->users;
	pthread_mutex_unlock(&table_lock);
	if (left == 0)
		destroy(c);
}

void channel_close(unsigned long lun)
{
	struct channel *c = NULL;

	pthread_mutex_lock(&table_lock);
	for (struct channel **p = &table; *p; p = &(*p)->next)
		if ((*p)->lun == lun) {
			c = *p;
			*p = c->next;
			break;
		}
	pthread_mutex_unlock(&table_lock);
	if (!c)
		return;
	card_close(&c->card);
	channel_wake(c);
	channel_put(c);
}

/* Presence */

/* Nothing is ever sent over the line, so a sign on it is its end. A daemon that
 * has no place for it, and does not accept it or hangs up at once, serves all
 * the same. */
static unsigned int look_locked(struct channel *c)
{
	const long long now = oct_now_ms();
	bool anew = false;
	ct_info_t info;

	if (atomic_load(&c->card.removed))
		return READER_GONE;
	if (c->line >= 0 && oct_hung_up(c->line)) {
		close(c->line);
		c->line = -1;
		c->lost = true;
		c->brief = now - c->since < LINE_MS ? c->brief + 1 : 0;
		if (c->brief >= BRIEF_LINES)
			c->retry = now + LINE_MS;
	}
	if (c->line < 0) {
		c->crowded = false;
		if (!place_find(&c->card.place, &c->reader))
			return READER_GONE;
		if (now >= c->retry) {
			c->line = oct_connect(c->reader, 0);
			if (c->line < 0 && errno != EAGAIN)
				return READER_GONE;
			c->since = now;
		}
		c->crowded = c->line < 0;
		oct_status_close(&c->status);
		anew = true;
	}
	if (!oct_status_entry(&c->status, c->reader, &info) || info.ct_pid == 0)
		return READER_GONE; /* on its way out */
	if (anew)
		c->announced = place_announces(c->reader, info.ct_pid);
	if (atomic_load(&c->refused))
		return CARD_NONE;
	return c->card.slot < info.ct_slots ? info.ct_card[c->card.slot] : CARD_NONE;
}

static bool is_card(unsigned int state)
{
	return state != CARD_NONE && state != READER_GONE;
}

unsigned int channel_presence(struct channel *c)
{
	unsigned int state;

	pthread_mutex_lock(&c->watching);
	dirwatch_drain(c->events);
	state = look_locked(c);
	if (is_card(c->reported) && is_card(state) && (state != c->reported || c->lost))
		state = CARD_NONE;
	c->lost = false;
	c->reported = state;
	pthread_mutex_unlock(&c->watching);
	return state;
}

static unsigned int channel_reported(struct channel *c)
{
	unsigned int state;

	pthread_mutex_lock(&c->watching);
	state = c->reported;
	pthread_mutex_unlock(&c->watching);
	return state;
}

/* Sleeps on four things: the daemon's hanging up, the socket directory, a call
 * of channel_wake, and the time. */
void channel_wait(struct channel *c, int ms)
{
	const long long deadline = oct_now_ms() + ms;

	for (;;) {
		struct pollfd pfd[3] = {
			{ .fd = c->stop, .events = POLLIN },
			{ .fd = c->events, .events = POLLIN },
			{ .fd = -1, .events = POLLRDHUP },
		};
		long long left = deadline - oct_now_ms(), nap = LONG_MS;
		uint64_t count;
		bool news;

		if (atomic_load(&c->refused)) {
			nap = REFUSED_MS;
			if (channel_reported(c) == CARD_NONE && card_is_free(&c->card))
				atomic_store(&c->refused, false);
		}
		pthread_mutex_lock(&c->watching);
		dirwatch_drain(c->events);
		dirwatch_arm(c->events);
		news = look_locked(c) != c->reported || c->lost;
		pfd[2].fd = c->line;
		if ((c->crowded || (c->line >= 0 && !c->announced)) && nap > UNAWARE_MS)
			nap = UNAWARE_MS;
		pthread_mutex_unlock(&c->watching);

		if (news || left <= 0)
			return;
		(void)poll(pfd, 3, (int)(left < nap ? left : nap));
		if (read(c->stop, &count, sizeof count) == sizeof count)
			return;
	}
}

void channel_wake(struct channel *c)
{
	const uint64_t one = 1;

	(void)!write(c->stop, &one, sizeof one);
}

int channel_info(struct channel *c, ct_info_t *info)
{
	int reader = -1;

	memset(info, 0, sizeof *info);
	pthread_mutex_lock(&c->watching);
	if (look_locked(c) != READER_GONE) {
		(void)oct_status_entry(&c->status, c->reader, info);
		reader = (int)c->reader;
	}
	pthread_mutex_unlock(&c->watching);
	return reader;
}

int channel_power_up(struct channel *c)
{
	int rc = card_power_up(&c->card);

	if (rc == IFD_ERROR_LOCKED || rc == IFD_ERROR_DEVICE_BUSY) {
		ifd_log(LOG_AS_INFO, rc == IFD_ERROR_LOCKED ? "card is in use by another OpenCT program"
				: "the reader's handler accepts no more connections at present");
		atomic_store(&c->refused, true);
		channel_wake(c);
	}
	return rc;
}
