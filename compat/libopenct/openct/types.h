/* Fixed-width integer types used by the OpenCT headers. */
#ifndef OPENCT_TYPES_H
#define OPENCT_TYPES_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#endif
