// keep_small runs before main, and before Go's runtime has touched its heap and started
// threads.
#include <malloc.h>
#include <sys/prctl.h>

__attribute__((constructor)) static void keep_small(void)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // old kernels cannot; that costs memory only
#ifdef M_ARENA_MAX
	mallopt(M_ARENA_MAX, 1);
#endif
}
