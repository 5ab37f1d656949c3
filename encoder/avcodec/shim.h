// What avcodec.go sees of libavcodec: plain functions over an opaque encoder. See shim.c.
#ifndef PHONEHOST_AVCODEC_SHIM_H
#define PHONEHOST_AVCODEC_SHIM_H

#include <stddef.h>
#include <stdint.h>

// Size of the caller's buffer for an error message; functions that return int give 0 or a negative number with a message.
#define PH_ERROR_SIZE 512

typedef struct ph_encoder ph_encoder;

// How an encoder is opened. Rates are those of ph_rate.
typedef struct {
  const char *codec;         // name, such as "libx264"
  const char *const *option; // names and values of the codec's own options, in turn, ended by NULL
  int width, height, fps;
  int level; // level_idc
} ph_config;

// Rate control of the frames to come: a quality that is kept where max_rate and buffer allow it.
typedef struct {
  double crf;
  int64_t max_rate; // bit/s
  int buffer;       // bits
} ph_rate;

// The picture that is encoded next; planes keep their content from frame to frame.
typedef struct {
  uint8_t *plane[3];
  int stride[3];
} ph_picture;

// One access unit, valid until the next call on the encoder.
typedef struct {
  const uint8_t *data;
  size_t size;
  int key;
} ph_packet;

const char *ph_codec_soname(void);
const char *ph_util_soname(void);
int ph_load(char *error);
int ph_version(void);
int ph_open(const ph_config *config, ph_rate rate, ph_encoder **out, char *error);
int ph_picture_of(ph_encoder *e, ph_picture *out, char *error);
int ph_done_fd(ph_encoder *e);
void ph_begin(ph_encoder *e, int key, ph_rate rate);
int ph_finish(ph_encoder *e, ph_packet *out, char *error);
void ph_close(ph_encoder *e);

#endif
