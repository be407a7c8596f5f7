#include "card.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	/* Other programs hold their locks for one operation. So long is waited, in
	 * steps, for the daemon answers a lock request at once. */
	LOCK_WAIT_MS = 2000, LOCK_STEP_MS = 50,
	CLOSE_MS = 2000, /* for a command that is under way when the channel closes */
};

void card_init(struct card *c, unsigned int slot, const struct place *place)
{
	c->slot = slot;
	c->place = *place;
	c->protocol = -1;
	pthread_mutex_init(&c->busy, NULL);
	pthread_mutex_init(&c->ending, NULL);
}

void card_destroy(struct card *c)
{
	ct_reader_disconnect(c->h);
	pthread_mutex_destroy(&c->busy);
	pthread_mutex_destroy(&c->ending);
}

static void set_handle_locked(struct card *c, ct_handle *h)
{
	ct_handle *old;

	pthread_mutex_lock(&c->ending);
	old = c->h;
	c->h = h;
	pthread_mutex_unlock(&c->ending);
	ct_reader_disconnect(old);
}

static void disconnect_locked(struct card *c)
{
	set_handle_locked(c, NULL);
	c->powered = c->locked = false;
	c->atr_len = 0;
	c->protocol = -1;
}

static int connect_locked(struct card *c, int wait_ms)
{
	unsigned int reader;
	ct_handle *h;

	if (atomic_load(&c->removed))
		return IFD_ERROR_NOT_CONNECTED;
	if (c->h && !c->h->broken && !oct_hung_up(c->h->fd))
		return 0;
	disconnect_locked(c);
	if (!place_find(&c->place, &reader))
		return IFD_ERROR_NOT_CONNECTED;
	h = oct_handle_open(reader, wait_ms);
	if (!h)
		return errno == EAGAIN ? IFD_ERROR_DEVICE_BUSY : IFD_ERROR_NOT_CONNECTED;
	set_handle_locked(c, h);
	return 0;
}

/* A daemon that went away is told from one that says "error": the state of the
 * card went with it. */
static int check_locked(struct card *c, int rc)
{
	if (rc < 0 && c->h && c->h->broken) {
		disconnect_locked(c);
		return IFD_ERROR_NOT_CONNECTED;
	}
	return rc;
}

static int lock_locked(struct card *c, ct_lock_handle *lock, int wait_ms)
{
	for (;;) {
		int rc = ct_card_lock(c->h, c->slot, IFD_LOCK_EXCLUSIVE, lock);

		if (rc != IFD_ERROR_LOCKED || wait_ms <= 0)
			return rc;
		(void)poll(NULL, 0, LOCK_STEP_MS);
		wait_ms -= LOCK_STEP_MS;
	}
}

static int reset_locked(struct card *c)
{
	unsigned char atr[64];
	int n = ct_card_reset(c->h, c->slot, atr, sizeof atr);

	if (n > ATR_MAX)
		return IFD_ERROR_INVALID_ATR;
	if (n > 0)
		memcpy(c->atr, atr, (size_t)n);
	return n;
}

/* After a reset there is no state of the card to protect: the next use takes
 * the lock again. */
static int power_up_locked(struct card *c)
{
	int rc = c->locked ? 0 : lock_locked(c, &c->lock, LOCK_WAIT_MS);

	if (rc < 0)
		return rc;
	c->powered = c->locked = false;
	c->atr_len = 0;
	c->protocol = -1;
	rc = reset_locked(c);
	if (rc >= 0) {
		c->powered = true;
		c->atr_len = (size_t)rc;
	}
	(void)ct_card_unlock(c->h, c->slot, c->lock);
	return rc;
}

int card_power_up(struct card *c)
{
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = connect_locked(c, LOCK_WAIT_MS);
	if (rc == 0)
		rc = check_locked(c, power_up_locked(c));
	pthread_mutex_unlock(&c->busy);
	return rc;
}

bool card_is_free(struct card *c)
{
	ct_lock_handle lock;
	int rc;

	if (pthread_mutex_trylock(&c->busy) != 0)
		return false;
	rc = connect_locked(c, 0);
	if (rc == 0)
		rc = check_locked(c, lock_locked(c, &lock, 0));
	if (rc == 0)
		(void)ct_card_unlock(c->h, c->slot, lock);
	pthread_mutex_unlock(&c->busy);
	/* A reader that is gone is no longer locked, either. */
	return rc != IFD_ERROR_LOCKED && rc != IFD_ERROR_DEVICE_BUSY;
}

/* What the program knows of the card must hold still: same ATR, same protocol. */
static int resume_locked(struct card *c)
{
	unsigned char atr[ATR_MAX];
	size_t len = c->atr_len;
	int rc;

	memcpy(atr, c->atr, len);
	rc = reset_locked(c);
	if (rc >= 0 && ((size_t)rc != len || memcmp(atr, c->atr, len) != 0))
		return IFD_ERROR_NO_CARD; /* it is another one */
	if (rc >= 0 && c->protocol >= 0)
		rc = ct_card_set_protocol(c->h, c->slot, (unsigned int)c->protocol);
	return rc < 0 ? rc : 0;
}

/* Before every command: the lock is ours, until power down. */
static int use_locked(struct card *c)
{
	ct_lock_handle lock;
	int rc;

	if (!c->powered)
		return c->h && !c->h->broken ? IFD_ERROR_NO_CARD : IFD_ERROR_NOT_CONNECTED;
	if (c->locked)
		return 0;
	rc = lock_locked(c, &lock, LOCK_WAIT_MS);
	if (rc < 0)
		return rc;
	if (lock != c->lock + 1)
		rc = resume_locked(c);
	if (rc < 0) {
		(void)ct_card_unlock(c->h, c->slot, lock);
		return rc;
	}
	c->lock = lock;
	c->locked = true;
	return 0;
}

static int power_down_locked(struct card *c)
{
	struct oct_request r;
	struct oct_reply reply;
	ct_lock_handle lock = c->lock;
	bool ours = c->locked;

	if (!c->locked) {
		if (lock_locked(c, &lock, 0) < 0)
			return 0; /* somebody else works with it */
		ours = c->powered && lock == c->lock + 1;
	}
	if (ours) {
		oct_request_init(&r, CT_CMD_EJECT_ICC, c->slot);
		(void)oct_call(c->h, &r, &reply);
	}
	(void)ct_card_unlock(c->h, c->slot, lock);
	return 0;
}

static void end_session_locked(struct card *c)
{
	if (c->h && !c->h->broken)
		(void)power_down_locked(c);
	c->powered = c->locked = false;
	c->atr_len = 0;
	c->protocol = -1;
	(void)check_locked(c, -1);
}

int card_power_down(struct card *c)
{
	pthread_mutex_lock(&c->busy);
	end_session_locked(c);
	pthread_mutex_unlock(&c->busy);
	return 0;
}

/* Whoever waits for the daemon's answer gets an error instead. */
static void interrupt(struct card *c)
{
	pthread_mutex_lock(&c->ending);
	if (c->h)
		(void)shutdown(c->h->fd, SHUT_RDWR);
	pthread_mutex_unlock(&c->ending);
}

/* pcscd closes channels in the thread that notices all plugging, so a daemon
 * that does not answer must not hold it: the connection is cut, and with it
 * ends the lock. */
void card_close(struct card *c)
{
	struct timespec until;

	atomic_store(&c->removed, true);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += CLOSE_MS / 1000;
	if (pthread_mutex_timedlock(&c->busy, &until) != 0) {
		interrupt(c);
		pthread_mutex_lock(&c->busy);
	}
	if (c->h)
		c->h->answer_ms = CLOSE_MS;
	end_session_locked(c);
	disconnect_locked(c);
	pthread_mutex_unlock(&c->busy);
}

/* There is nothing to protect any more. */
void card_gone(struct card *c)
{
	pthread_mutex_lock(&c->busy);
	if (c->locked)
		(void)ct_card_unlock(c->h, c->slot, c->lock);
	c->powered = c->locked = false;
	c->atr_len = 0;
	c->protocol = -1;
	(void)check_locked(c, -1);
	pthread_mutex_unlock(&c->busy);
}

int card_protocol(struct card *c, unsigned int protocol)
{
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = use_locked(c);
	if (rc == 0)
		rc = check_locked(c, ct_card_set_protocol(c->h, c->slot, protocol));
	if (rc == 0)
		c->protocol = (int)protocol;
	pthread_mutex_unlock(&c->busy);
	return rc;
}

size_t card_atr(struct card *c, unsigned char atr[ATR_MAX])
{
	size_t len;

	pthread_mutex_lock(&c->busy);
	len = c->atr_len;
	memcpy(atr, c->atr, len);
	pthread_mutex_unlock(&c->busy);
	return len;
}

int card_transmit(struct card *c, const void *apdu, size_t len, void *resp, size_t size)
{
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = use_locked(c);
	if (rc == 0)
		rc = ct_card_transact(c->h, c->slot, apdu, len, resp, size);
	rc = check_locked(c, rc);
	pthread_mutex_unlock(&c->busy);
	return rc;
}

int card_request(struct card *c, struct oct_request *r, unsigned char tag,
		void *out, size_t size)
{
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = use_locked(c);
	if (rc == 0)
		rc = oct_call_bytes(c->h, r, tag, out, size);
	rc = check_locked(c, rc);
	pthread_mutex_unlock(&c->busy);
	return rc;
}

int card_query(struct card *c, struct oct_request *r, struct oct_reply *reply)
{
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = connect_locked(c, LOCK_WAIT_MS);
	if (rc == 0)
		rc = check_locked(c, oct_call(c->h, r, reply));
	pthread_mutex_unlock(&c->busy);
	return rc;
}

unsigned int card_max_command(struct card *c)
{
	struct oct_request r;
	struct oct_reply reply;
	unsigned int max;

	oct_request_init(&r, CT_CMD_LIMITS, c->slot);
	if (card_query(c, &r, &reply) < 0 || !oct_reply_int(&reply, CT_TAG_MAX_COMMAND, &max))
		return SHORT_APDU_MAX;
	return max < OCT_APDU_MAX ? max : OCT_APDU_MAX;
}
