/* PC/SC part 10: PIN entry on the reader's own keypad, reader properties. */
#ifndef OPENCT_IFD_PINPAD_H
#define OPENCT_IFD_PINPAD_H

#include "channel.h"

/* A control code of SCardControl. Length of the answer, or an OpenCT error:
 * IFD_ERROR_NOT_SUPPORTED for codes that this reader does not have. */
int pinpad_control(struct channel *c, unsigned long code,
		const unsigned char *tx, size_t tx_len, unsigned char *rx, size_t rx_size);

/* PIN_VERIFY_STRUCTURE and PIN_MODIFY_STRUCTURE to OpenCT's PIN_DATA. Length
 * of it, or an error. */
int pinpad_verify_data(const unsigned char *tx, size_t len, unsigned char *out, size_t size);
int pinpad_modify_data(const unsigned char *tx, size_t len, unsigned char *out, size_t size);

#endif
