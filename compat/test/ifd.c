/* The PC/SC bundle, loaded and driven as pcscd does it. */
#include "check.h"
#include "fake.h"
#include "ifdhost.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static void side_file(unsigned int reader, unsigned int device, bool announces)
{
	char json[512];

	/* As the daemon writes it; the nested and quoted ones are no keys. */
	snprintf(json, sizeof json, "{\"pid\":%d,\"driver\":\"device\",\"locks\":[{\"device\":\"/dev/bus/usb/009/009\"}],"
			"\"type\":\"usb\",\"last_error\":\"\\\"device\\\": x\",\"device\":\"/dev/bus/usb/001/%03u\","
			"\"id\":\"usb:0529/0600/0100\",\"serial\":\"A1B2\",\"announces\":%s}\n",
			getpid(), device, announces ? "true" : "false");
	world_side_file(reader, json);
}

/* With these members and our own process id. */
static void world_side_file_of_us(unsigned int reader, const char *members)
{
	char json[512];

	snprintf(json, sizeof json, "{\"pid\":%d,%s}", getpid(), members);
	world_side_file(reader, json);
}

/* A second OpenCT program, by hand: requests over a connection of its own. */
static int other_connect(unsigned int reader)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/%u", world_dir, reader);
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa) < 0)
		perror("connect");
	return fd;
}

static int other_call(int fd, const char *payload)
{
	unsigned char packet[64] = { 1 }, reply[4096];
	uint16_t n = (uint16_t)unhex(payload, packet + 12, sizeof packet - 12);
	int16_t error;

	memcpy(packet + 10, &n, 2);
	if (write(fd, packet, 12u + n) != 12 + n || recv(fd, reply, 12, MSG_WAITALL) != 12)
		return -1000;
	memcpy(&error, reply + 8, 2);
	memcpy(&n, reply + 10, 2);
	if (n && recv(fd, reply, n, MSG_WAITALL) != n)
		return -1000;
	return error;
}

/* pcscd's polling thread */

typedef RESPONSECODE (*poll_fn)(DWORD, int);
typedef RESPONSECODE (*stop_fn)(DWORD);

struct poller {
	DWORD lun;
	poll_fn fn;
	double seconds;
};

static void *poller(void *arg)
{
	struct poller *p = arg;
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	p->fn(p->lun, 60000);
	clock_gettime(CLOCK_MONOTONIC, &b);
	p->seconds = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	return NULL;
}

/* Names and finding */

static void names(void)
{
	static const char *const bad[] = {
		"", "x", "openct:", "openct:16", "openct:-1", "openct:1x", "openct:99999999999",
		"/dev/ttyS0", "/dev/null:", "usb:", "usb:0529", "usb:zz/0600",
		"usb:0529/0600:libudev:0:/dev/bus/usb/001", "usb:0529/0600:libudev:0:/dev/bus/usb/001/004/..",
		"usb:0529/0600:libudev:0:/dev/../etc/passwd", "/dev/bus/usb/001/004x",
	};
	static const char *const good[] = { "openct:0", "openct:15", "/dev/null", "/dev/null:3", "7" };

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		check_case(bad[i]);
		CHECK_INT(open_name(0, bad[i]), IFD_NO_SUCH_DEVICE);
	}
	CHECK_INT(create_by_name(0, NULL), IFD_NO_SUCH_DEVICE);
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		check_case(good[i]);
		CHECK_INT(open_name(0, good[i]), IFD_SUCCESS);
		CHECK_INT(presence(0), IFD_ICC_NOT_PRESENT); /* no such reader yet */
		CHECK_INT(power_up(0, IFD_POWER_UP, ""), IFD_NO_SUCH_DEVICE);
		CHECK_INT(close_channel(0), IFD_SUCCESS);
	}
	check_case("a Lun that is not open");
	CHECK_INT(presence(0), IFD_NO_SUCH_DEVICE);
	CHECK_STR(transmit_hex(0, "00a40000", 258), "!617");
	CHECK_INT(close_channel(0), IFD_COMMUNICATION_ERROR);
}

/* Two tokens of one kind: each channel leads to its own. */
static void finds_its_own(void)
{
	struct fake_reader *r[2] = { fake_reader_new(), fake_reader_new() };
	pid_t server[2];

	for (unsigned int i = 0; i < 2; i++) {
		world_reader(i, "Aladdin eToken PRO 64k", 1);
		world_entries[i].ct_card[0] = 1;
		server[i] = fake_reader_serve(i, r[i]);
		side_file(i, i + 4, true);
	}
	strcpy(r[1]->atr[0], "3b00");
	check_case("by device");
	CHECK_INT(open_name(0x10000, USB(5)), IFD_SUCCESS);
	CHECK_INT(open_name(0x10000, USB(5)), IFD_SUCCESS); /* again: no harm */
	CHECK_INT(open_name(0, USB(4)), IFD_SUCCESS);
	CHECK_INT(power_up(0x10000, IFD_POWER_UP, "3b00"), IFD_SUCCESS);
	CHECK_INT(power_up(0, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	check_case("a second interface of the same device");
	CHECK_INT(open_name(0x20000, "usb:0529/0600:libudev:1:/dev/bus/usb/001/005"), IFD_COMMUNICATION_ERROR);
	close_channel(0);
	close_channel(0x10000);
	check_case("libusb's name, vendor and product, the node alone");
	CHECK_INT(open_name(0, "usb:0529/0600:libusb-1.0:1:5:0"), IFD_SUCCESS);
	CHECK_INT(power_up(0, IFD_POWER_UP, "3b00"), IFD_SUCCESS);
	close_channel(0);
	CHECK_INT(open_name(0, "usb:0529/0600"), IFD_SUCCESS);
	CHECK_INT(power_up(0, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	close_channel(0);
	CHECK_INT(open_name(0, "/dev/bus/usb/001/005"), IFD_SUCCESS);
	close_channel(0);
	check_case("by number");
	CHECK_INT(create(0, 1), IFD_SUCCESS);
	CHECK_INT(power_up(0, IFD_POWER_UP, "3b00"), IFD_SUCCESS);
	close_channel(0);
	CHECK_INT(create(0, 0x200001), IFD_SUCCESS);
	CHECK_INT(power_up(0, IFD_POWER_UP, "3b00"), IFD_SUCCESS);
	close_channel(0);
	for (unsigned int i = 0; i < 2; i++) {
		fake_end(server[i]);
		memset(&world_entries[i], 0, sizeof world_entries[i]);
	}
}

static void *open_later(void *arg)
{
	*(RESPONSECODE *)arg = open_name(0, USB(7));
	return NULL;
}

/* pcscd and the daemon start at the same plug. */
static void waits_for_the_daemon(void)
{
	struct fake_reader *r = fake_reader_new();
	struct poller p = { 0 };
	RESPONSECODE rv = 0;
	pthread_t t;
	pid_t server;
	DWORD len;

	check_case("waits for a daemon that starts");
	memset(&world_entries[2], 0, sizeof world_entries[2]);
	world_entries[2].ct_pid = getpid(); /* claimed, not yet ready */
	pthread_create(&t, NULL, open_later, &rv);
	server = fake_reader_serve(2, r);
	side_file(2, 7, true);
	world_reader(2, "Aladdin eToken PRO 64k", 1);
	world_touch();
	pthread_join(t, NULL);
	CHECK_INT(rv, IFD_SUCCESS);
	close_channel(0);
	check_case("a side file left behind by another process is not believed");
	world_side_file(2, "{\"pid\":1,\"device\":\"/dev/bus/usb/001/007\"}");
	CHECK_INT(open_name(0, USB(7)), IFD_SUCCESS);
	CHECK(strstr(last_log, "no OpenCT handler serves usb:0529/0600"));
	CHECK_INT(presence(0), IFD_ICC_NOT_PRESENT);
	CHECK_INT(power_up(0, IFD_POWER_UP, ""), IFD_NO_SUCH_DEVICE);
	check_case("its daemon comes later: pcscd need not start again");
	world_entries[2].ct_card[0] = 1;
	p.lun = 0;
	len = sizeof p.fn;
	CHECK_INT(get(0, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &len, (PUCHAR)&p.fn), IFD_SUCCESS);
	pthread_create(&t, NULL, poller, &p);
	side_file(2, 7, true);
	pthread_join(t, NULL);
	CHECK(p.seconds < 30);
	CHECK_INT(presence(0), IFD_ICC_PRESENT);
	CHECK_INT(power_up(0, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	close_channel(0);
	fake_end(server);
	memset(&world_entries[2], 0, sizeof world_entries[2]);
}

/* pcscd that is not in the sockets' group. */
static void not_let_in(void)
{
	const uid_t me = geteuid(), nobody = 65534;

	check_case("tells when it is not let in");
	if (me == 0)
		CHECK_INT(seteuid(nobody), 0);
	else
		CHECK_INT(chmod(world_dir, 0), 0);
	CHECK_INT(open_name(0, USB(7)), IFD_SUCCESS);
	CHECK_INT(presence(0), IFD_ICC_NOT_PRESENT);
	close_channel(0);
	CHECK(strstr(last_log, "may not open OpenCT's sockets") && strstr(last_log, "usb:0529/0600"));
	if (me == 0)
		CHECK_INT(seteuid(me), 0);
	else
		CHECK_INT(chmod(world_dir, 0700), 0);
}

/* What pcscd asks first */

static void capabilities(DWORD lun)
{
	static const struct { const char *name; DWORD tag; const char *want; } table[] = {
		{ "slots", TAG_IFD_SLOTS_NUMBER, "02" },
		{ "simultaneous", TAG_IFD_SIMULTANEOUS_ACCESS, "10" },
		{ "thread safe", TAG_IFD_THREAD_SAFE, "01" },
		{ "slots thread safe", TAG_IFD_SLOT_THREAD_SAFE, "01" },
		{ "not to be killed", TAG_IFD_POLLING_THREAD_KILLABLE, "00" },
		{ "no ATR yet", TAG_IFD_ATR, "" },
		{ "vendor", SCARD_ATTR_VENDOR_NAME, "4f70656e435400" },
		{ "kind", SCARD_ATTR_VENDOR_IFD_TYPE, "4b61616e00" },
		{ "longest APDU, of a daemon that tells none", SCARD_ATTR_MAXINPUT, "05010000" },
		{ "serial number", SCARD_ATTR_VENDOR_IFD_SERIAL_NO, "4131423200" },
		{ "version", SCARD_ATTR_VENDOR_IFD_VERSION, "00000001" },
		{ "channel", SCARD_ATTR_CHANNEL_ID, "04012000" },
		{ "card there", SCARD_ATTR_ICC_PRESENCE, "02" },
		{ "no power", SCARD_ATTR_ICC_INTERFACE_STATUS, "00" },
	};
	static const DWORD device[] = {
		SCARD_ATTR_VENDOR_IFD_SERIAL_NO, SCARD_ATTR_VENDOR_IFD_VERSION, SCARD_ATTR_CHANNEL_ID,
	};
	unsigned char value[64];
	DWORD len;

	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
		check_case(table[i].name);
		len = sizeof value;
		CHECK_INT(get(lun, table[i].tag, &len, value), IFD_SUCCESS);
		CHECK_HEX(value, len, table[i].want);
	}
	check_case("a device that its daemon tells nothing of");
	world_side_file(0, "{\"pid\":1,\"serial\":\"of another daemon\"}");
	for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
		len = sizeof value;
		CHECK_INT(get(lun, device[i], &len, value), IFD_ERROR_TAG);
		CHECK_INT(len, 0);
	}
	check_case("a device of which nonsense is told");
	world_side_file_of_us(0, "\"serial\":\"\x1b[2J\",\"id\":\"usb:0529\",\"device\":\"/dev/ttyS0\"");
	for (size_t i = 0; i < sizeof device / sizeof device[0]; i++) {
		len = sizeof value;
		CHECK_INT(get(lun, device[i], &len, value), IFD_ERROR_TAG);
	}
	world_side_file_of_us(0, "\"serial\":\"\"");
	len = sizeof value;
	CHECK_INT(get(lun, SCARD_ATTR_VENDOR_IFD_SERIAL_NO, &len, value), IFD_ERROR_TAG);
	side_file(0, 4, true);
	check_case("unknown tag, short buffer");
	len = sizeof value;
	CHECK_INT(get(lun, 0x1234, &len, value), IFD_ERROR_TAG);
	CHECK_INT(len, 0);
	len = 3;
	CHECK_INT(get(lun, SCARD_ATTR_VENDOR_NAME, &len, value), IFD_ERROR_INSUFFICIENT_BUFFER);
	CHECK_INT(get(lun, TAG_IFD_ATR, NULL, value), IFD_COMMUNICATION_ERROR);
	CHECK_INT(set(lun, 0x1234, 0, value), IFD_ERROR_TAG);
}

/* Power, protocol, APDUs and the locks around them */

static void wait_ms(DWORD lun, int ms)
{
	RESPONSECODE (*wait)(DWORD, int) = NULL;
	DWORD len = sizeof wait;

	CHECK_INT(get(lun, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &len, (PUCHAR)&wait), IFD_SUCCESS);
	CHECK_INT(wait(lun, ms), IFD_SUCCESS);
}

static void sessions(struct fake_reader *r, DWORD lun)
{
	unsigned int log = atomic_load(&r->logged);
	int other = other_connect(0);

	check_case("power up does not keep the lock");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	FAKE_LOG(r, &log, "0100c2000101", "1000", "020044000100");
	check_case("the first use takes it, until reset or power down");
	CHECK_INT(set_protocol(lun, SCARD_PROTOCOL_T1, 0, 0, 0, 0), IFD_SUCCESS);
	FAKE_LOG(r, &log, "0100c2000101", "2200c8000101");
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "00a400009000");
	FAKE_LOG(r, &log, "2100c4000400a40000");
	CHECK_INT(other_call(other, "0100c2000101"), -7);
	CHECK_INT(other_call(other, "2100c4000400a40000"), -7);
	log = atomic_load(&r->logged);
	CHECK_INT(power_up(lun, IFD_RESET, ATR0), IFD_SUCCESS);
	FAKE_LOG(r, &log, "1000", "020044000101");
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "00a400009000");
	FAKE_LOG(r, &log, "0100c2000101", "2100c4000400a40000");
	CHECK_INT(power_down(lun), IFD_SUCCESS);
	FAKE_LOG(r, &log, "1200", "020044000102");
	CHECK_INT(other_call(other, "0100c2000101"), 0);
	CHECK_INT(other_call(other, "020044000103"), 0);
	log = atomic_load(&r->logged);

	check_case("no card without power");
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "!616");

	check_case("somebody worked with the card meanwhile: reset again");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	CHECK_INT(other_call(other, "0100c2000101"), 0);
	CHECK_INT(other_call(other, "020044000105"), 0);
	log = atomic_load(&r->logged);
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "00a400009000");
	FAKE_LOG(r, &log, "0100c2000101", "1000", "2100c4000400a40000");
	CHECK_INT(power_down(lun), IFD_SUCCESS);
	log = atomic_load(&r->logged);

	check_case("powering down leaves the card alone that somebody works with");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	CHECK_INT(other_call(other, "0100c2000101"), 0);
	log = atomic_load(&r->logged);
	CHECK_INT(power_down(lun), IFD_SUCCESS);
	FAKE_LOG(r, &log, "0100c2000101");
	check_case("and so does powering up, after a while");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ""), IFD_ERROR_POWER_ACTION);
	CHECK(strstr(last_log, "in use by another OpenCT program"));
	check_case("the card is away from pcscd meanwhile");
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	wait_ms(lun, 20);
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	check_case("a program that dies with a lock loses it");
	close(other);
	wait_ms(lun, 60000);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);

	check_case("another card than before: not mixed up");
	other = other_connect(0);
	CHECK_INT(other_call(other, "0100c2000101"), 0);
	close(other);
	strcpy(r->atr[0], "3b00");
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "!616");
	strcpy(r->atr[0], ATR0);
	CHECK_INT(power_down(lun), IFD_SUCCESS);

	check_case("errors of power up");
	strcpy(r->atr[0], "!-6");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ""), IFD_ERROR_POWER_ACTION);
	strcpy(r->atr[0], "!-15");
	CHECK_INT(power_up(lun, IFD_RESET, ""), IFD_ERROR_POWER_ACTION);
	check_case("a card without ATR");
	strcpy(r->atr[0], "");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ""), IFD_SUCCESS);
	strcpy(r->atr[0], ATR0);
	CHECK_INT(power(lun, 999, (unsigned char[MAX_ATR_SIZE]){ 0 }, &(DWORD){ 0 }), IFD_NOT_SUPPORTED);
	check_case("protocols");
	CHECK_INT(set_protocol(lun, SCARD_PROTOCOL_RAW, 0, 0, 0, 0), IFD_PROTOCOL_NOT_SUPPORTED);
	CHECK_INT(set_protocol(lun, SCARD_PROTOCOL_T0, 0, 0, 0, 0), IFD_SUCCESS);
	CHECK_INT(power_down(lun), IFD_SUCCESS);
}

static void long_apdus(DWORD lun)
{
	static char apdu[2 * 70000 + 1], want[2 * 70000 + 8];

	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	check_case("as long as a packet carries");
	for (int i = 0; i < 4079; i++)
		strcpy(apdu + 2 * i, "41");
	snprintf(want, sizeof want, "%s9000", apdu);
	CHECK_STR(transmit_hex(lun, apdu, 65548), want);
	check_case("one more");
	strcat(apdu, "41");
	CHECK_STR(transmit_hex(lun, apdu, 65548), "!614");
	CHECK(strstr(last_log, "4080 bytes"));
	check_case("pcscd's longest");
	for (int i = 0; i < 65544; i++)
		memcpy(apdu + 2 * i, "41", 3);
	CHECK_STR(transmit_hex(lun, apdu, 65548), "!614");
	check_case("receive buffer");
	CHECK_STR(transmit_hex(lun, "00a40000", 6), "00a400009000");
	CHECK_STR(transmit_hex(lun, "00a40000", 5), "!618");
	CHECK_STR(transmit_hex(lun, "00a40000", 0), "!618");
	check_case("nothing to send");
	CHECK_STR(transmit_hex(lun, "", 258), "!612");
	CHECK_INT(power_down(lun), IFD_SUCCESS);
}

/* The two slots of one reader are two cards. */
static void second_slot(struct fake_reader *r, DWORD lun)
{
	unsigned int log;

	check_case("slot 1");
	CHECK_INT(open_name(lun + 1, "openct:0"), IFD_SUCCESS);
	CHECK_INT(presence(lun + 1), IFD_ICC_NOT_PRESENT);
	world_entries[0].ct_card[1] = 9;
	CHECK_INT(presence(lun + 1), IFD_ICC_PRESENT);
	log = atomic_load(&r->logged);
	CHECK_INT(power_up(lun + 1, IFD_POWER_UP, "3b0214ff"), IFD_SUCCESS);
	CHECK_STR(transmit_hex(lun + 1, "00a40000", 258), "00a400009000");
	CHECK_STR(r->log[log % 512], "0101c2000101");
	CHECK_INT(close_channel(lun + 1), IFD_SUCCESS);
	world_entries[0].ct_card[1] = 0;
}

/* News of cards */

static void news(DWORD lun, pid_t *server, struct fake_reader *r)
{
	struct poller p = { lun, NULL, 0 };
	stop_fn stop = NULL;
	DWORD len = sizeof p.fn;
	pthread_t t;

	CHECK_INT(get(lun, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &len, (PUCHAR)&p.fn), IFD_SUCCESS);
	len = sizeof stop;
	CHECK_INT(get(lun, TAG_IFD_STOP_POLLING_THREAD, &len, (PUCHAR)&stop), IFD_SUCCESS);

	check_case("card out, card in, another card");
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);
	world_entries[0].ct_card[0] = 0;
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	world_entries[0].ct_card[0] = 2;
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);
	world_entries[0].ct_card[0] = 3;
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT); /* once, so that pcscd notices */
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);

	check_case("removal gives the lock back");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "00a400009000");
	world_entries[0].ct_card[0] = 0;
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "!616");
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);

	check_case("the polling thread wakes for a card");
	pthread_create(&t, NULL, poller, &p);
	world_entries[0].ct_card[0] = 4;
	world_touch();
	pthread_join(t, NULL);
	CHECK(p.seconds < 30);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);

	check_case("when asked to");
	pthread_create(&t, NULL, poller, &p);
	CHECK_INT(stop(lun), IFD_SUCCESS);
	pthread_join(t, NULL);
	CHECK(p.seconds < 30);
	CHECK_INT(p.fn(lun, 1), IFD_SUCCESS); /* and after a time */
	CHECK_INT(p.fn(0x77770000, 60000), IFD_NO_SUCH_DEVICE);

	check_case("when the daemon dies");
	pthread_create(&t, NULL, poller, &p);
	fake_kill(*server);
	world_entries[0].ct_card[0] = 0;
	world_entries[0].ct_pid = 0;
	pthread_join(t, NULL);
	CHECK(p.seconds < 30);
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);

	check_case("when it is back");
	pthread_create(&t, NULL, poller, &p);
	*server = fake_reader_serve(0, r);
	world_reader(0, "Kaan", 2);
	world_entries[0].ct_card[0] = 4; /* the same number as before */
	side_file(0, 4, true);
	world_touch();
	pthread_join(t, NULL);
	CHECK(p.seconds < 30);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);

	check_case("a daemon restarted unseen is another card");
	fake_kill(*server);
	*server = fake_reader_serve(0, r);
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);

	check_case("unplugged in the middle of an APDU");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	CHECK_STR(transmit_hex(lun, "00ff0000", 258), "!617");
	fake_end(*server);
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "!617");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ""), IFD_NO_SUCH_DEVICE);
	*server = fake_reader_serve(0, r);
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	CHECK_STR(transmit_hex(lun, "00a40000", 258), "00a400009000");
	CHECK_INT(power_down(lun), IFD_SUCCESS);
}

/* C OpenCT's daemon touches nothing: seen nevertheless, within a second or so. */
static void news_from_an_old_daemon(DWORD lun)
{
	struct poller p = { lun, NULL, 0 };
	DWORD len = sizeof p.fn;
	pthread_t t;

	check_case("an old daemon's card");
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);
	CHECK_INT(get(lun, TAG_IFD_POLLING_THREAD_WITH_TIMEOUT, &len, (PUCHAR)&p.fn), IFD_SUCCESS);
	pthread_create(&t, NULL, poller, &p);
	world_entries[0].ct_card[0] = 0;
	pthread_join(t, NULL);
	CHECK(p.seconds < 30);
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
}

static void removed_device(void)
{
	check_case("a USB reader that pcscd says is unplugged");
	side_file(0, 4, true);
	CHECK_INT(open_name(0, USB(4)), IFD_SUCCESS);
	CHECK_INT(presence(0), IFD_ICC_PRESENT);
	CHECK_INT(set(0, TAG_IFD_DEVICE_REMOVED, 1, (PUCHAR)"\1"), IFD_SUCCESS);
	CHECK_INT(presence(0), IFD_NO_SUCH_DEVICE);
	CHECK_INT(power_up(0, IFD_POWER_UP, ""), IFD_NO_SUCH_DEVICE);
	CHECK_INT(close_channel(0), IFD_SUCCESS);

	check_case("a USB reader whose daemon ended");
	CHECK_INT(open_name(0, USB(4)), IFD_SUCCESS);
	CHECK_INT(presence(0), IFD_ICC_PRESENT);
	world_entries[0].ct_pid = 0;
	CHECK_INT(presence(0), IFD_ICC_NOT_PRESENT);
	CHECK_INT(power_up(0, IFD_POWER_UP, ""), IFD_NO_SUCH_DEVICE);
	world_entries[0].ct_pid = getpid();
	CHECK_INT(close_channel(0), IFD_SUCCESS);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* pcscd notices all plugging in one thread, and looks for cards in one for each
 * reader: a daemon that does not accept must hold neither. */
static void full_queue_does_not_hold_pcscd(DWORD lun)
{
	struct fake_crowd crowd;
	double before;

	check_case("a full queue when the reader is opened");
	world_reader(3, "Crowded", 1);
	world_entries[3].ct_card[0] = 1;
	fake_crowd_open(&crowd, 3);
	before = now();
	CHECK_INT(open_name(lun, "openct:3"), IFD_SUCCESS);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT); /* it is served */
	wait_ms(lun, 20);
	CHECK_INT(close_channel(lun), IFD_SUCCESS);
	side_file(3, 8, true);
	CHECK_INT(open_name(lun, USB(8)), IFD_SUCCESS);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);
	CHECK(now() - before < 4);
	check_case("a full queue at power up");
	CHECK_INT(power_up(lun, IFD_POWER_UP, ""), IFD_ERROR_POWER_ACTION);
	CHECK(strstr(last_log, "accepts no more connections"));
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	CHECK(now() - before < 30);
	check_case("the queue empties");
	wait_ms(lun, 20);
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	fake_crowd_close(&crowd);
	{
		struct fake_reader *r = fake_reader_new();
		pid_t server = fake_reader_serve(3, r);

		wait_ms(lun, 60000);
		CHECK_INT(presence(lun), IFD_ICC_PRESENT);
		CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
		CHECK_INT(close_channel(lun), IFD_SUCCESS);
		fake_end(server);
	}
	memset(&world_entries[3], 0, sizeof world_entries[3]);
}

static void *hang_up_at_once(void *arg)
{
	int fd;

	while ((fd = accept(*(int *)arg, NULL, NULL)) >= 0)
		close(fd);
	return NULL;
}

/* A daemon that accepts and hangs up must not make pcscd's thread run in
 * circles. */
static void hanging_up_is_not_answered_at_once(DWORD lun)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	unsigned int rounds = 0;
	pthread_t t;
	double start;

	check_case("a daemon that hangs up at once");
	world_reader(3, "Hostile", 1);
	world_entries[3].ct_card[0] = 1;
	side_file(3, 8, true);
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/3", world_dir);
	unlink(sa.sun_path);
	CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(listener, 16) == 0);
	pthread_create(&t, NULL, hang_up_at_once, &listener);
	CHECK_INT(open_name(lun, "openct:3"), IFD_SUCCESS);
	for (start = now(); now() - start < 1.5; rounds++) {
		(void)presence(lun);
		wait_ms(lun, 60000);
	}
	CHECK(rounds < 50);
	CHECK_INT(close_channel(lun), IFD_SUCCESS);
	shutdown(listener, SHUT_RDWR);
	pthread_join(t, NULL);
	close(listener);
	memset(&world_entries[3], 0, sizeof world_entries[3]);
}

static void *transmit_holding(void *arg)
{
	CHECK_STR(transmit_hex(*(DWORD *)arg, "00fe0000", 258), "!617");
	return NULL;
}

/* The daemon has a command and does not answer it any more. */
static void silent_daemon_does_not_hold_close(DWORD lun)
{
	struct fake_reader *r = fake_reader_new();
	pthread_t t;
	pid_t server;
	double before;

	check_case("closing a reader whose daemon does not answer");
	world_reader(3, "Silent", 1);
	world_entries[3].ct_card[0] = 1;
	server = fake_reader_serve(3, r);
	CHECK_INT(open_name(lun, "openct:3"), IFD_SUCCESS);
	CHECK_INT(power_up(lun, IFD_POWER_UP, ATR0), IFD_SUCCESS);
	pthread_create(&t, NULL, transmit_holding, &lun);
	while (!atomic_load(&r->waiting))
		(void)poll(NULL, 0, 1);
	before = now();
	CHECK_INT(close_channel(lun), IFD_SUCCESS);
	CHECK(now() - before < 30);
	pthread_join(t, NULL);
	fake_kill(server);
	memset(&world_entries[3], 0, sizeof world_entries[3]);
}

/* The bundle is in pcscd's process: SIGBUS there would end PC/SC for all. */
static void truncated_file_is_no_sigbus(DWORD lun)
{
	struct fake_reader *r = fake_reader_new();
	unsigned char value[8];
	pid_t server;
	DWORD len = sizeof value;

	check_case("the status file is cut");
	world_renew_status();
	world_reader(0, "Kaan", 1);
	world_entries[0].ct_card[0] = 1;
	server = fake_reader_serve(0, r);
	CHECK_INT(open_name(lun, "openct:0"), IFD_SUCCESS);
	CHECK_INT(presence(lun), IFD_ICC_PRESENT);
	CHECK_INT(truncate(world_path("status"), 0), 0);
	CHECK_INT(presence(lun), IFD_ICC_NOT_PRESENT);
	wait_ms(lun, 1);
	CHECK_INT(get(lun, TAG_IFD_SLOTS_NUMBER, &len, value), IFD_SUCCESS);
	CHECK_INT(close_channel(lun), IFD_SUCCESS);
	fake_end(server);
	CHECK_INT(truncate(world_path("status"), 1728), 0);
}

static atomic_uint wrong;

static void *busy(void *arg)
{
	DWORD lun = (DWORD)(size_t)arg;
	SCARD_IO_HEADER pci = { SCARD_PROTOCOL_T1, 8 };

	for (int i = 0; i < 200; i++) {
		unsigned char apdu[5] = { 0, 0x10, (unsigned char)lun, (unsigned char)i, 0 }, rx[16], atr[33];
		DWORD len = sizeof rx, atr_len = sizeof atr;

		if (i % 20 == 0 && power(lun, IFD_POWER_UP, atr, &atr_len) != IFD_SUCCESS)
			atomic_fetch_add(&wrong, 1);
		if (transmit(lun, pci, apdu, sizeof apdu, rx, &len, NULL) != IFD_SUCCESS || len != 7 || rx[3] != i)
			atomic_fetch_add(&wrong, 1);
		(void)presence(lun);
	}
	return NULL;
}

static void many_at_once(void)
{
	static const DWORD luns[] = { 0, 1, 0x10000 };
	static const char *const names_[] = { "openct:0", "openct:0", "openct:1" };
	struct fake_reader *r = fake_reader_new();
	pthread_t t[3];
	pid_t server;

	check_case("several readers and slots at once");
	world_reader(1, "Second", 1);
	world_entries[1].ct_card[0] = 1;
	world_entries[0].ct_card[1] = 1;
	world_entries[0].ct_card[0] = 1;
	server = fake_reader_serve(1, r);
	for (size_t i = 0; i < 3; i++)
		CHECK_INT(open_name(luns[i], names_[i]), IFD_SUCCESS);
	for (size_t i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, busy, (void *)luns[i]);
	for (size_t i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	CHECK_INT(atomic_load(&wrong), 0);
	for (size_t i = 0; i < 3; i++)
		CHECK_INT(close_channel(luns[i]), IFD_SUCCESS);
	fake_end(server);
}

int main(void)
{
	struct fake_reader *r = fake_reader_new();
	const DWORD lun = 0x30000;
	pid_t server;

	host_load();
	world_open();
	names();
	finds_its_own();
	waits_for_the_daemon();
	not_let_in();

	world_reader(0, "Kaan", 2);
	world_entries[0].ct_card[0] = 1;
	side_file(0, 4, true);
	server = fake_reader_serve(0, r);
	CHECK_INT(open_name(lun, "openct:0"), IFD_SUCCESS);
	capabilities(lun);
	sessions(r, lun);
	long_apdus(lun);
	second_slot(r, lun);
	news(lun, &server, r);
	CHECK_INT(close_channel(lun), IFD_SUCCESS);
	side_file(0, 4, false);
	CHECK_INT(open_name(lun, "openct:0"), IFD_SUCCESS);
	news_from_an_old_daemon(lun);
	CHECK_INT(close_channel(lun), IFD_SUCCESS);
	world_entries[0].ct_card[0] = 1;
	removed_device();
	many_at_once();
	fake_end(server);
	full_queue_does_not_hold_pcscd(lun);
	hanging_up_is_not_answered_at_once(lun);
	silent_daemon_does_not_hold_close(lun);
	truncated_file_is_no_sigbus(lun);
	world_close();
	return check_result("ifd");
}
