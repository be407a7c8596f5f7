/* Where a reader is, as pcscd says it, and which OpenCT reader that is. */
#ifndef OPENCT_IFD_PLACE_H
#define OPENCT_IFD_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct place {
	bool fixed;           /* by number or name; else by what is plugged in */
	unsigned int number;  /* OpenCT reader */
	char device[64];      /* /dev/bus/usb/001/004, or "" */
	char id[32];          /* usb:0529/0600, or "" */
	char alias[40];       /* name in openct.conf, or "" */
};

/* Understands
 *	usb:0529/0600:libudev:0:/dev/bus/usb/001/004  pcscd's hotplug
 *	usb:0529/0600:libusb-1.0:1:4:0                the same, older
 *	usb:0529/0600                                 the first of this kind
 *	/dev/bus/usb/001/004
 *	openct:office                                 a name in openct.conf (reader.conf)
 *	openct:2, /dev/null:2, /dev/null, 2           OpenCT reader (reader.conf) */
bool place_parse(struct place *p, const char *name);

/* A numeric channel is an OpenCT reader; pcscd adds 0x200000 to its own counter
 * for hotplugged readers (PCSCLITE_HP_BASE_PORT, pcsc-lite: pcscd.h). */
void place_from_channel(struct place *p, unsigned long channel);

bool place_equal(const struct place *a, const struct place *b);

/* Finds the living reader at p. False: there is none now. */
bool place_find(const struct place *p, unsigned int *reader);

/* Does this daemon touch the status file whenever a card comes or goes? It says
 * so in its side file: "announces": true. */
bool place_announces(unsigned int reader, pid_t pid);

/* What the daemon of a reader tells of it in its side file: the text of a member.
 * False when it tells nothing, or nothing printable. */
bool place_tells(unsigned int reader, pid_t pid, const char *key, char *out, size_t size);

/* place_find that waits for a reader that is still starting, at most ms. */
bool place_wait(const struct place *p, unsigned int *reader, int ms);

/* After place_wait: was there none because we are not let in? */
bool place_forbidden(const struct place *p);

/* Is the device none of ours? udev's rule (60-openct.rules) asks OpenCT about each
 * device that may be, and keeps the answer in its record of the device
 * (/run/udev/data): OPENCT_DRIVER=none. Without a record it may be ours. */
bool place_refused(const struct place *p);
bool place_record_refuses(const char *record);

/* Side file of a reader, JSON: the text of the member key at its top, for
 * texts without escapes. False when it has none or does not fit. */
bool place_json_text(const char *json, const char *key, char *out, size_t size);

/* inotify on the socket directory, where readers come and go and, after every
 * change in it, the status file is touched. */
int dirwatch_open(void);
void dirwatch_arm(int fd); /* call before every look that a wait follows */
void dirwatch_drain(int fd);

#endif
