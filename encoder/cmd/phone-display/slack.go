package main

import "C" // slack.c
