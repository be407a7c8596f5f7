/* libopenct: smart cards and tokens served by OpenCT.
 *
 * A reader is known by its number, 0 to OPENCT_MAX_READERS - 1. Connect to it,
 * reset the card, exchange APDUs, disconnect. A function that returns an int
 * returns a negative IFD_ERROR_ code (openct/error.h) when it fails.
 *
 * A handle may be used by several threads; calls that reach the reader wait
 * for each other. A call waits as long as the reader needs. After a fork the
 * child talks over a connection of its own, without the parent's locks. */
#ifndef OPENCT_OPENCT_H
#define OPENCT_OPENCT_H

#include <openct/error.h>
#include <openct/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OPENCT_MAX_READERS      16
#define OPENCT_MAX_SLOTS        8

/* One reader, as in the status file: 108 bytes. */
typedef struct ct_info {
	char         ct_name[64];               /* NUL-terminated */
	unsigned int ct_slots;                  /* 0 to OPENCT_MAX_SLOTS */
	unsigned int ct_card[OPENCT_MAX_SLOTS]; /* 0: no card; else new for every card */
	unsigned int ct_display : 1,
	             ct_keypad : 1;
	pid_t        ct_pid;                    /* its daemon; 0: entry is free */
} ct_info_t;

typedef struct ct_handle ct_handle;
typedef unsigned int ct_lock_handle;

/* Card status, bits */
#define IFD_CARD_PRESENT        0x0001
#define IFD_CARD_STATUS_CHANGED 0x0002

enum {
	IFD_LOCK_SHARED,    /* others of the same user may share */
	IFD_LOCK_EXCLUSIVE  /* nobody else */
};

enum {
	IFD_PIN_ENCODING_BCD,
	IFD_PIN_ENCODING_ASCII
};

/* Readers */

/* Sets *out to all entries and returns how many there are, or -1. The entries
 * are the file itself, mapped: they change as readers and cards come and go,
 * names may lack their NUL, and reading them raises SIGBUS if somebody who may
 * write the file cuts it. ct_reader_info() is free of that. */
int ct_status(const ct_info_t **out);

/* Copies one reader's entry. -1: there is no such reader now. */
int ct_reader_info(unsigned int reader, ct_info_t *out);

/* NULL when the reader is not there or may not be used. */
ct_handle *ct_reader_connect(unsigned int reader);
void ct_reader_disconnect(ct_handle *h);
int ct_reader_status(ct_handle *h, ct_info_t *out);

/* Cards */

/* Sets *status to IFD_CARD_ bits. CHANGED: another card than at the last call
 * with this handle. */
int ct_card_status(ct_handle *h, unsigned int slot, int *status);

/* protocol: 0 is T=0, 1 is T=1. */
int ct_card_set_protocol(ct_handle *h, unsigned int slot, unsigned int protocol);

/* Reset the card and return the length of its ATR, of which at most len bytes
 * are stored. 0: a card without ATR. ct_card_request waits timeout seconds
 * for a card and shows message, where the reader can. */
int ct_card_reset(ct_handle *h, unsigned int slot, void *atr, size_t len);
int ct_card_request(ct_handle *h, unsigned int slot, unsigned int timeout,
		const char *message, void *atr, size_t len);

/* A lock ends with ct_card_unlock or with the connection. */
int ct_card_lock(ct_handle *h, unsigned int slot, int type, ct_lock_handle *out);
int ct_card_unlock(ct_handle *h, unsigned int slot, ct_lock_handle lock);

/* Send an APDU of at most 4079 bytes; returns the length of the response.
 * IFD_ERROR_BUFFER_TOO_SMALL: the response does not fit, and is lost. */
int ct_card_transact(ct_handle *h, unsigned int slot,
		const void *apdu, size_t apdu_len, void *resp, size_t resp_len);

/* Send an APDU into which the reader puts a PIN typed on its keypad.
 * pin_length 0: variable; pin_offset: where in the APDU, from 0. */
int ct_card_verify(ct_handle *h, unsigned int slot, unsigned int timeout,
		const char *prompt, unsigned int pin_encoding,
		unsigned int pin_length, unsigned int pin_offset,
		const void *apdu, size_t apdu_len, void *resp, size_t resp_len);

/* Synchronous memory cards. ct_card_read_memory returns the bytes read, at
 * most 4081 a call. */
int ct_card_read_memory(ct_handle *h, unsigned int slot, unsigned short address,
		void *data, size_t len);
int ct_card_write_memory(ct_handle *h, unsigned int slot, unsigned short address,
		const void *data, size_t len);

/* The daemons' side of the status file */

/* Makes the status file afresh for count readers, owned by the user owner
 * (NULL: the caller). 0 or -1. */
int ct_status_clear(unsigned int count, const char *owner);
int ct_status_destroy(void);

/* Takes an entry and stores the caller's process id: the first free one when
 * *num is -1 (and sets *num), else the entry *num. NULL: none. */
ct_info_t *ct_status_alloc_slot(int *num);
int ct_status_update(ct_info_t *entry);

#ifdef __cplusplus
}
#endif
#endif
