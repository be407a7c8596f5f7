// Before Go's runtime has touched its heap: that is before main, where a program
// can do it at the earliest.
#include <sys/prctl.h>

__attribute__((constructor)) static void no_huge_pages(void)
{
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); // old kernels cannot; that costs memory only
}
