/* One handle in two threads, and on both sides of a fork. */
#include "check.h"
#include "fake.h"

#include <openct/openct.h>

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 300, THREADS = 4 };

static ct_handle *shared;
static atomic_uint wrong;

/* Each answer must be the caller's own APDU. */
static void talk(ct_handle *h, unsigned int who)
{
	for (unsigned int i = 0; i < ROUNDS; i++) {
		unsigned char apdu[8] = { 0, 0x10, (unsigned char)who, (unsigned char)(i >> 8),
			(unsigned char)(i & 0xff), 1, 2, 3 }, resp[16];
		int n = ct_card_transact(h, 0, apdu, sizeof apdu, resp, sizeof resp);

		if (n != 10 || memcmp(resp, apdu, sizeof apdu) != 0)
			atomic_fetch_add(&wrong, 1);
	}
}

static void *talker(void *arg)
{
	talk(shared, (unsigned int)(size_t)arg);
	return NULL;
}

static void *watcher(void *arg)
{
	(void)arg;
	for (unsigned int i = 0; i < ROUNDS; i++) {
		const ct_info_t *all;
		int status;

		if (ct_status(&all) != 16 || ct_card_status(shared, 0, &status) != 0)
			atomic_fetch_add(&wrong, 1);
		if (i % 50 == 0)
			world_renew_status();
	}
	return NULL;
}

static void one_handle_many_threads(void)
{
	pthread_t t[THREADS + 1];

	check_case("threads");
	for (size_t i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, talker, (void *)i);
	pthread_create(&t[THREADS], NULL, watcher, NULL);
	for (size_t i = 0; i <= THREADS; i++)
		pthread_join(t[i], NULL);
	CHECK_INT(atomic_load(&wrong), 0);
}

static int status_of(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return status;
}

static void both_sides_of_a_fork(struct fake_reader *r)
{
	unsigned int before = atomic_load(&r->connections);
	pid_t pid;

	check_case("fork");
	pid = fork();
	if (pid == 0) {
		talk(shared, 100);
		_exit(atomic_load(&wrong) != 0);
	}
	talk(shared, 101);
	CHECK_INT(status_of(pid), 0);
	CHECK_INT(atomic_load(&wrong), 0);
	CHECK_INT(atomic_load(&r->connections), before + 1);
}

static void *slow_call(void *arg)
{
	unsigned char resp[16];

	(void)arg;
	if (ct_card_transact(shared, 0, "\x00\xfe\x00\x00", 4, resp, sizeof resp) != 6)
		atomic_fetch_add(&wrong, 1);
	return NULL;
}

/* The child of a fork in the middle of another thread's call is not stuck. */
static void fork_during_a_call(struct fake_reader *r)
{
	pthread_t t;
	pid_t pid;

	check_case("fork during a call");
	pthread_create(&t, NULL, slow_call, NULL);
	while (!atomic_load(&r->waiting))
		sched_yield();
	pid = fork();
	if (pid == 0) {
		alarm(20);
		talk(shared, 102);
		_exit(atomic_load(&wrong) != 0);
	}
	atomic_store(&r->release, 1);
	pthread_join(t, NULL);
	CHECK_INT(status_of(pid), 0);
	CHECK_INT(atomic_load(&wrong), 0);
}

/* The lock is the parent's. */
static void locks_stay_with_the_parent(void)
{
	ct_lock_handle lock;
	pid_t pid;

	check_case("locks after a fork");
	CHECK_INT(ct_card_lock(shared, 0, IFD_LOCK_EXCLUSIVE, &lock), 0);
	pid = fork();
	if (pid == 0) {
		unsigned char resp[8];

		_exit(ct_card_transact(shared, 0, "\x00\x10\x00\x00", 4, resp, sizeof resp) != -7 ||
				ct_card_unlock(shared, 0, lock) != -8);
	}
	CHECK_INT(status_of(pid), 0);
	CHECK_INT(ct_card_unlock(shared, 0, lock), 0);
}

int main(void)
{
	struct fake_reader *r;
	pid_t server;

	world_open();
	world_reader(0, "Virtual", 1);
	r = fake_reader_new();
	server = fake_reader_serve(0, r);
	shared = ct_reader_connect(0);
	if (!shared)
		return 3;
	one_handle_many_threads();
	both_sides_of_a_fork(r);
	fork_during_a_call(r);
	locks_stay_with_the_parent();
	ct_reader_disconnect(shared);
	fake_end(server);
	world_close();
	return check_result("threads");
}
