/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Nothing of its own: the compiler swaps bytes best. */
