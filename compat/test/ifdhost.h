/* A stand-in for pcscd: loads the bundle and calls it. */
#ifndef OPENCT_TEST_IFDHOST_H
#define OPENCT_TEST_IFDHOST_H

#include <PCSC/wintypes.h>
#include <PCSC/pcsclite.h>
#include <PCSC/ifdhandler.h>
#include <PCSC/reader.h>

#include <stdbool.h>

#define USB(n) "usb:0529/0600:libudev:0:/dev/bus/usb/001/00" #n
#define ATR0 "3b848131fe455249475083" /* of the fake reader's first card */

/* The bundle's entry points, after host_load. */
extern __typeof__(IFDHCreateChannelByName) *create_by_name;
extern __typeof__(IFDHCreateChannel) *create;
extern __typeof__(IFDHCloseChannel) *close_channel;
extern __typeof__(IFDHGetCapabilities) *get;
extern __typeof__(IFDHSetCapabilities) *set;
extern __typeof__(IFDHSetProtocolParameters) *set_protocol;
extern __typeof__(IFDHPowerICC) *power;
extern __typeof__(IFDHTransmitToICC) *transmit;
extern __typeof__(IFDHControl) *control;
extern __typeof__(IFDHICCPresence) *presence;

extern char last_log[256]; /* what the bundle last told pcscd's log */

void host_load(void);
RESPONSECODE open_name(DWORD lun, const char *name);

/* Checks the ATR that comes. */
RESPONSECODE power_up(DWORD lun, DWORD action, const char *want_atr);
RESPONSECODE power_down(DWORD lun);

/* The response in hex, or "!code". The text stays until the next call. */
const char *transmit_hex(DWORD lun, const char *apdu, DWORD size);
const char *control_hex(DWORD lun, DWORD code, const char *tx);

#endif
