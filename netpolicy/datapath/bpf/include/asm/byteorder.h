/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* All machines that phonehost runs on are little-endian, and so is the target "bpfel". */
#pragma once

#include <linux/byteorder/little_endian.h>
