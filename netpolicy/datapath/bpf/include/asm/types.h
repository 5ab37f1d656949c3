/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The kernel's own headers ask for the architecture's <asm/types.h>. The programs are the same for every architecture, so that
 * they are compiled without the headers of any.
 */
#pragma once

#include <asm-generic/types.h>
