/* CT-API over OpenCT: a reader as a card terminal with CT-BCS commands.
 * All calls may come from several threads. */
#ifndef OPENCT_CTAPI_H
#define OPENCT_CTAPI_H

#ifdef __cplusplus
extern "C" {
#endif

#define OK            0
#define ERR_INVALID   (-1)    /* invalid argument, no such reader, card error */
#define ERR_CT        (-8)
#define ERR_TRANS     (-10)
#define ERR_MEMORY    (-11)
#define ERR_HOST      (-127)
#define ERR_HTSI      (-128)  /* another program has the reader */

/* Opens OpenCT's reader number pn (from 0) under the number ctn, any, and
 * keeps other programs off its cards until CT_close. */
char CT_init(unsigned short ctn, unsigned short pn);
char CT_close(unsigned short ctn);

/* Sends a command: *dad 0 to the first card, 3 to the second, 1 to the
 * terminal. *lenr is the size of rsp, and then the length of the response. */
char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad,
		unsigned short lenc, unsigned char *cmd,
		unsigned short *lenr, unsigned char *rsp);

#ifdef __cplusplus
}
#endif
#endif
