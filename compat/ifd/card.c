/* The card in a channel: power, locks, APDUs. */
#include "channel.h"

#include <poll.h>
#include <string.h>

/* Other programs hold their locks for one operation. So long is waited, in
 * steps, for the daemon answers a lock request at once. */
enum { LOCK_WAIT_MS = 2000, LOCK_STEP_MS = 50 };

static void disconnect_locked(struct channel *c)
{
	ct_reader_disconnect(c->h);
	c->h = NULL;
	c->powered = c->locked = false;
	c->atr_len = 0;
	c->protocol = -1;
}

static int connect_locked(struct channel *c)
{
	unsigned int reader;

	if (atomic_load(&c->removed))
		return IFD_ERROR_NOT_CONNECTED;
	if (c->h && !c->h->broken && !hung_up(c->h->fd))
		return 0;
	disconnect_locked(c);
	if (!place_find(&c->place, &reader))
		return IFD_ERROR_NOT_CONNECTED;
	c->h = ct_reader_connect(reader);
	return c->h ? 0 : IFD_ERROR_NOT_CONNECTED;
}

/* A daemon that went away is told from one that says "error": the state of the
 * card went with it. */
static int check_locked(struct channel *c, int rc)
{
	if (rc < 0 && c->h && c->h->broken) {
		disconnect_locked(c);
		return IFD_ERROR_NOT_CONNECTED;
	}
	return rc;
}

static int lock_locked(struct channel *c, ct_lock_handle *lock, int wait_ms)
{
	for (;;) {
		int rc = ct_card_lock(c->h, c->slot, IFD_LOCK_EXCLUSIVE, lock);

		if (rc != IFD_ERROR_LOCKED || wait_ms <= 0)
			return rc;
		(void)poll(NULL, 0, LOCK_STEP_MS);
		wait_ms -= LOCK_STEP_MS;
	}
}

static int reset_locked(struct channel *c)
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
static int power_up_locked(struct channel *c)
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

int channel_power_up(struct channel *c)
{
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = connect_locked(c);
	if (rc == 0)
		rc = check_locked(c, power_up_locked(c));
	pthread_mutex_unlock(&c->busy);
	if (rc == IFD_ERROR_LOCKED) {
		channel_log(LOG_AS_INFO, "card is in use by another OpenCT program");
		atomic_store(&c->refused, true);
		channel_wake(c);
	}
	return rc;
}

/* Asks by taking it. Not now, if a command is under way. */
bool channel_lock_is_free(struct channel *c)
{
	ct_lock_handle lock;
	int rc;

	if (pthread_mutex_trylock(&c->busy) != 0)
		return false;
	rc = connect_locked(c);
	if (rc == 0)
		rc = check_locked(c, lock_locked(c, &lock, 0));
	if (rc == 0)
		(void)ct_card_unlock(c->h, c->slot, lock);
	pthread_mutex_unlock(&c->busy);
	return rc != IFD_ERROR_LOCKED; /* gone is no longer locked, either */
}

/* What the program knows of the card must hold still: same ATR, same protocol. */
static int resume_locked(struct channel *c)
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
static int use_locked(struct channel *c)
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

static int power_down_locked(struct channel *c)
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

int channel_power_down(struct channel *c)
{
	pthread_mutex_lock(&c->busy);
	if (c->h && !c->h->broken)
		(void)power_down_locked(c);
	c->powered = c->locked = false;
	c->atr_len = 0;
	c->protocol = -1;
	(void)check_locked(c, -1);
	pthread_mutex_unlock(&c->busy);
	return 0;
}

/* There is nothing to protect any more. */
void channel_card_gone(struct channel *c)
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

int channel_protocol(struct channel *c, unsigned int protocol)
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

size_t channel_atr(struct channel *c, unsigned char atr[ATR_MAX])
{
	size_t len;

	pthread_mutex_lock(&c->busy);
	len = c->atr_len;
	memcpy(atr, c->atr, len);
	pthread_mutex_unlock(&c->busy);
	return len;
}

int channel_transmit(struct channel *c, const void *apdu, size_t len, void *resp, size_t size)
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

int channel_request(struct channel *c, struct oct_request *r, unsigned char tag,
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

int channel_query(struct channel *c, struct oct_request *r)
{
	struct oct_reply reply;
	int rc;

	pthread_mutex_lock(&c->busy);
	rc = connect_locked(c);
	if (rc == 0)
		rc = check_locked(c, oct_call(c->h, r, &reply));
	pthread_mutex_unlock(&c->busy);
	return rc;
}
