/* CT-API over OpenCT: a reader as a card terminal with CT-BCS commands (MKT
 * specification, parts 3 and 4). All calls may come from several threads. */
#ifndef OPENCT_CTAPI_H
#define OPENCT_CTAPI_H

#ifdef __cplusplus
extern "C" {
#endif

#define MAX_APDULEN   1040    /* what old programs make their buffers of; no limit here */

/* What the calls return */
#define OK            0
#define ERR_INVALID   (-1)    /* invalid argument, no such reader, card error */
#define ERR_CT        (-8)
#define ERR_TRANS     (-10)
#define ERR_MEMORY    (-11)
#define ERR_HOST      (-127)
#define ERR_HTSI      (-128)  /* another program has the reader */

/* Addresses: *dad of CT_data */
enum {
	CTAPI_DAD_ICC1 = 0,
	CTAPI_DAD_CT = 1,
	CTAPI_DAD_HOST = 2,
	CTAPI_DAD_ICC2 = 3
};

/* Opens OpenCT's reader number pn (from 0) under the number ctn, any, and
 * keeps other programs off its cards until CT_close. */
char CT_init(unsigned short ctn, unsigned short pn);
char CT_close(unsigned short ctn);

/* Sends a command: *dad is CTAPI_DAD_ICC1, _ICC2 or _CT. *lenr is the size of
 * rsp, and then the length of the response. */
char CT_data(unsigned short ctn, unsigned char *dad, unsigned char *sad,
		unsigned short lenc, unsigned char *cmd,
		unsigned short *lenr, unsigned char *rsp);

/* CT-BCS commands: CLA and INS. INPUT is answered with CTBCS_SW_BAD_INS, and so
 * are the two VERIFICATIONs by a reader without a keypad; OUTPUT by one without a
 * display with CTBCS_SW_BAD_PARAMS. */
#define CTBCS_CLA                       0x20
#define CTBCS_CLA_2                     0x80    /* of SET INTERFACE PARAMETER */
#define CTBCS_INS_RESET                 0x11
#define CTBCS_INS_REQUEST_ICC           0x12
#define CTBCS_INS_STATUS                0x13
#define CTBCS_INS_EJECT_ICC             0x15
#define CTBCS_INS_INPUT                 0x16
#define CTBCS_INS_OUTPUT                0x17
#define CTBCS_INS_PERFORM_VERIFICATION  0x18
#define CTBCS_INS_MODIFY_VERIFICATION   0x19
#define CTBCS_INS_SET_INTERFACE_PARAM   0x60

/* P1: functional units */
#define CTBCS_UNIT_CT                   0x00
#define CTBCS_UNIT_INTERFACE1           0x01
#define CTBCS_UNIT_INTERFACE2           0x02
#define CTBCS_UNIT_DISPLAY              0x40
#define CTBCS_UNIT_KEYPAD               0x50

/* P2 of RESET CT and REQUEST ICC: what comes back */
#define CTBCS_P2_RESET_NO_RESP          0x00
#define CTBCS_P2_RESET_GET_ATR          0x01
#define CTBCS_P2_RESET_GET_HIST         0x02    /* historical bytes; not here */
#define CTBCS_P2_REQUEST_NO_RESP        0x00
#define CTBCS_P2_REQUEST_GET_ATR        0x01
#define CTBCS_P2_REQUEST_GET_HIST       0x02

/* P2 of STATUS: the data object wanted */
#define CTBCS_P2_STATUS_MANUFACTURER    0x46
#define CTBCS_P2_STATUS_ICC             0x80

/* P2 of INPUT */
#define CTBCS_P2_INPUT_ECHO             0x01
#define CTBCS_P2_INPUT_ASTERISKS        0x02

/* Tags of data objects in commands */
#define CTBCS_TAG_TPP                   0x22    /* transmission protocol parameter */
#define CTBCS_TAG_TPC                   0x45    /* ... of a card, in a template */
#define CTBCS_TAG_PROMPT                0x50
#define CTBCS_TAG_VERIFY_CMD            0x52
#define CTBCS_TAG_TIMEOUT               0x80    /* seconds, one byte */

/* Control byte of a verification */
#define CTBCS_PIN_CONTROL_LEN_SHIFT     4
#define CTBCS_PIN_CONTROL_LEN_MASK      0x0F
#define CTBCS_PIN_CONTROL_ENCODE_ASCII  0x01

/* Status words */
#define CTBCS_SW_NOT_IN_TIME            0x6200  /* card not inserted, or not taken out */
#define CTBCS_SW_NO_INPUT               0x6400  /* no PIN was entered in time */
#define CTBCS_SW_CANCELLED              0x6401  /* by the user, at the keypad */
#define CTBCS_SW_PIN_MISMATCH           0x6402  /* the new PIN was entered in two ways */
#define CTBCS_SW_BAD_LENGTH             0x6700
#define CTBCS_SW_BAD_COMMAND            0x6900
#define CTBCS_SW_NOT_EXECUTABLE         0x6985
#define CTBCS_SW_BAD_PARAMS             0x6a00
#define CTBCS_SW_NOT_SUPPORTED          0x6a80
#define CTBCS_SW_INVALID_TLV            0x6a85
#define CTBCS_SW_BAD_LE                 0x6c00
#define CTBCS_SW_BAD_INS                0x6d00
#define CTBCS_SW_BAD_CLASS              0x6e00
#define CTBCS_SW_BAD_ICC                0x6f00
#define CTBCS_SW_SUCCESS                0x9000

/* STATUS: one byte for each slot */
#define CTBCS_DATA_STATUS_NOCARD        0x00
#define CTBCS_DATA_STATUS_CARD          0x01    /* never here */
#define CTBCS_DATA_STATUS_CARD_CONNECT  0x05

#ifdef __cplusplus
}
#endif
#endif
