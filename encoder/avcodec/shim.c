#define _GNU_SOURCE // pthread_setname_np

// The part of libavcodec that an encoder needs, for FFmpeg 5.1 to 8 (libavcodec 59 to 62).
//
// The libraries are opened by dlopen when the first encoder is, by the soname of the version whose headers this was compiled
// with: struct layouts belong to that major version. A display that nobody watches so never pays for them, and one without
// them says so. No function is linked; each is looked up once in ph_load.
//
// Every encoder has a thread that encodes. Go could call C for it directly, but then its scheduler polls every 20 microseconds
// for as long as the call lasts, to see whether it must give the caller's processor away: 6 percent of a display's time.
// Waiting for an eventfd costs two wake-ups per frame.
#include "shim.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavutil/frame.h>
#include <libavutil/log.h>
#include <libavutil/opt.h>

#if LIBAVCODEC_VERSION_MAJOR < 59 || LIBAVCODEC_VERSION_MAJOR > 62
#error "FFmpeg 5.1 to 8 is needed (libavcodec 59 to 62)"
#endif

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define CODEC_SONAME "libavcodec.so." TEXT(LIBAVCODEC_VERSION_MAJOR)
#define UTIL_SONAME "libavutil.so." TEXT(LIBAVUTIL_VERSION_MAJOR)

// Every function that is used: library, name.
#define FUNCTIONS(F)             \
  F(util, av_dict_free)          \
  F(util, av_dict_set)           \
  F(util, av_frame_alloc)        \
  F(util, av_frame_free)         \
  F(util, av_frame_get_buffer)   \
  F(util, av_frame_make_writable) \
  F(util, av_log_set_callback)   \
  F(util, av_opt_set_double)     \
  F(util, av_strerror)           \
  F(codec, av_packet_alloc)      \
  F(codec, av_packet_free)       \
  F(codec, av_packet_unref)      \
  F(codec, avcodec_alloc_context3) \
  F(codec, avcodec_find_encoder_by_name) \
  F(codec, avcodec_free_context) \
  F(codec, avcodec_open2)        \
  F(codec, avcodec_receive_packet) \
  F(codec, avcodec_send_frame)   \
  F(codec, avcodec_version)

static struct {
#define DECLARE(lib, name) __typeof__(&name) name;
  FUNCTIONS(DECLARE)
} lib;

// Guards loading, opening and closing: codec libraries initialise tables of their own, not all of them thread-safely.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int loaded;

// The last complaint of libavcodec on this thread; reset before a call whose failure is reported.
static __thread char complaint[PH_ERROR_SIZE / 2];

struct ph_encoder {
  AVCodecContext *context;
  AVFrame *frame;
  AVPacket *packet;
  int64_t next;
  int has_crf;

  // The thread, and what is to be done by it; the caller waits for done_fd before it looks at anything again.
  pthread_t thread;
  int started;
  int done_fd;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  enum { IDLE, ENCODE, QUIT } order;
  int key;
  ph_rate rate;
  int result;
  char error[PH_ERROR_SIZE];
};

const char *ph_codec_soname(void) { return CODEC_SONAME; }
const char *ph_util_soname(void) { return UTIL_SONAME; }

static void on_log(void *context, int level, const char *format, va_list args) {
  (void)context;
  if (level > AV_LOG_ERROR) return;
  vsnprintf(complaint, sizeof complaint, format, args);
  for (size_t n = strlen(complaint); n > 0 && complaint[n - 1] == '\n';) complaint[--n] = 0;
}

static int say(char *error, const char *what, int code) {
  char reason[128] = "";
  if (code < 0 && lib.av_strerror) lib.av_strerror(code, reason, sizeof reason);
  snprintf(error, PH_ERROR_SIZE, "%s%s%s%s%s", what, *reason ? ": " : "", reason, *complaint ? ": " : "", complaint);
  return -1;
}

static int load(char *error) {
  if (loaded) return 0;
  complaint[0] = 0;
  void *util = dlopen(UTIL_SONAME, RTLD_LAZY | RTLD_LOCAL);
  void *codec = util ? dlopen(CODEC_SONAME, RTLD_LAZY | RTLD_LOCAL) : NULL;
  if (!codec) {
    snprintf(error, PH_ERROR_SIZE, "%s", dlerror());
    if (util) dlclose(util);
    return -1;
  }
#define LOOK_UP(library, name)                                         \
  if (!(lib.name = (__typeof__(&name))dlsym(library, #name))) {        \
    snprintf(error, PH_ERROR_SIZE, #library " has no function " #name); \
    goto undo;                                                         \
  }
  FUNCTIONS(LOOK_UP)
  if (lib.avcodec_version() >> 16 != LIBAVCODEC_VERSION_MAJOR) {
    snprintf(error, PH_ERROR_SIZE, CODEC_SONAME " is of version %u", lib.avcodec_version() >> 16);
    goto undo;
  }
  lib.av_log_set_callback(on_log);
  // One arena for all threads, and large blocks always by mmap: what an encoder frees goes back to the system.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  loaded = 1;
  return 0;
undo:
  memset(&lib, 0, sizeof lib);
  dlclose(codec);
  dlclose(util);
  return -1;
}

int ph_load(char *error) {
  pthread_mutex_lock(&mutex);
  int r = load(error);
  pthread_mutex_unlock(&mutex);
  return r;
}

int ph_version(void) { return lib.avcodec_version ? (int)lib.avcodec_version() : 0; }

static void apply_rate(ph_encoder *e, ph_rate rate) {
  if (e->has_crf)
    lib.av_opt_set_double(e->context->priv_data, "crf", rate.crf, 0);
  else
    e->context->bit_rate = rate.max_rate;
  e->context->rc_max_rate = rate.max_rate;
  e->context->rc_buffer_size = rate.buffer;
}

static void describe(AVCodecContext *c, const ph_config *config) {
  c->width = config->width;
  c->height = config->height;
  c->pix_fmt = AV_PIX_FMT_YUV420P;
  c->time_base = (AVRational){1, config->fps};
  c->framerate = (AVRational){config->fps, 1};
  c->level = config->level;
  c->thread_count = 1;
  c->refs = 1;
  c->max_b_frames = 0;
  c->gop_size = 1 << 30; // x264's infinite: key frames come by request alone
  c->bit_rate = 0;
  // As encoder/convert converts; the pixels themselves are sRGB.
  c->colorspace = AVCOL_SPC_SMPTE170M;
  c->color_range = AVCOL_RANGE_MPEG;
  c->color_primaries = AVCOL_PRI_BT709;
  c->color_trc = AVCOL_TRC_IEC61966_2_1;
  c->chroma_sample_location = AVCHROMA_LOC_CENTER; // libyuv averages two by two pixels
}

static int open_context(ph_encoder *e, const ph_config *config, ph_rate rate, char *error) {
  const AVCodec *codec = lib.avcodec_find_encoder_by_name(config->codec);
  if (!codec) return say(error, "this libavcodec was built without the encoder", 0);
  if (!(e->context = lib.avcodec_alloc_context3(codec))) return say(error, "allocate context", AVERROR(ENOMEM));
  describe(e->context, config);
  AVDictionary *options = NULL;
  for (const char *const *o = config->option; *o; o += 2) lib.av_dict_set(&options, o[0], o[1], 0);
  e->has_crf = lib.av_opt_set_double(e->context->priv_data, "crf", rate.crf, 0) >= 0;
  apply_rate(e, rate);
  int r = lib.avcodec_open2(e->context, codec, &options);
  lib.av_dict_free(&options);
  if (r < 0) return say(error, "open encoder", r);
  if (!(e->packet = lib.av_packet_alloc()) || !(e->frame = lib.av_frame_alloc()))
    return say(error, "allocate frame", AVERROR(ENOMEM));
  e->frame->format = e->context->pix_fmt;
  e->frame->width = config->width;
  e->frame->height = config->height;
  if ((r = lib.av_frame_get_buffer(e->frame, 0)) < 0) return say(error, "allocate frame", r);
  return 0;
}

// encode makes a packet of the frame; on the encoder's thread.
static int encode(ph_encoder *e) {
  complaint[0] = 0;
  apply_rate(e, e->rate);
  lib.av_packet_unref(e->packet);
  e->frame->pts = e->next++;
  e->frame->pict_type = e->key ? AV_PICTURE_TYPE_I : AV_PICTURE_TYPE_NONE;
  int r = lib.avcodec_send_frame(e->context, e->frame);
  if (r < 0) return say(e->error, "send frame", r);
  r = lib.avcodec_receive_packet(e->context, e->packet);
  if (r < 0) return say(e->error, "receive packet", r);
  return 0;
}

static void *work(void *arg) {
  ph_encoder *e = arg;
  pthread_setname_np(pthread_self(), "encode");
  for (;;) {
    pthread_mutex_lock(&e->lock);
    while (e->order == IDLE) pthread_cond_wait(&e->wake, &e->lock);
    int quit = e->order == QUIT;
    e->order = IDLE;
    pthread_mutex_unlock(&e->lock);
    if (quit) return NULL;
    e->result = encode(e);
    if (eventfd_write(e->done_fd, 1) != 0) abort(); // cannot be: the counter is read between any two writes
  }
}

static void give_order(ph_encoder *e, int order) {
  pthread_mutex_lock(&e->lock);
  e->order = order;
  pthread_cond_signal(&e->wake);
  pthread_mutex_unlock(&e->lock);
}

static int start_thread(ph_encoder *e, char *error) {
  pthread_mutex_init(&e->lock, NULL);
  pthread_cond_init(&e->wake, NULL);
  if ((e->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) return say(error, "make eventfd", 0);
  // Signals are for Go's threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int r = pthread_create(&e->thread, NULL, work, e);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (r != 0) {
    close(e->done_fd);
    return say(error, "start thread", 0);
  }
  e->started = 1;
  return 0;
}

static void close_locked(ph_encoder *e) {
  if (e->started) {
    give_order(e, QUIT);
    pthread_join(e->thread, NULL);
  }
  if (e->context) lib.avcodec_free_context(&e->context);
  if (e->packet) lib.av_packet_free(&e->packet);
  if (e->frame) lib.av_frame_free(&e->frame);
  free(e);
  malloc_trim(0);
}

int ph_open(const ph_config *config, ph_rate rate, ph_encoder **out, char *error) {
  ph_encoder *e = calloc(1, sizeof *e);
  if (!e) return say(error, "allocate encoder", 0);
  pthread_mutex_lock(&mutex);
  int r = load(error);
  complaint[0] = 0;
  if (r == 0) r = open_context(e, config, rate, error);
  if (r == 0) r = start_thread(e, error);
  if (r == 0)
    *out = e;
  else
    close_locked(e);
  pthread_mutex_unlock(&mutex);
  return r;
}

int ph_picture_of(ph_encoder *e, ph_picture *out, char *error) {
  // An encoder that still reads the last picture (hardware that works behind) gets to keep it, and this becomes a copy.
  int r = lib.av_frame_make_writable(e->frame);
  if (r < 0) return say(error, "allocate frame", r);
  for (int i = 0; i < 3; i++) {
    out->plane[i] = e->frame->data[i];
    out->stride[i] = e->frame->linesize[i];
  }
  return 0;
}

int ph_done_fd(ph_encoder *e) { return e->done_fd; }

void ph_begin(ph_encoder *e, int key, ph_rate rate) {
  e->key = key;
  e->rate = rate;
  give_order(e, ENCODE);
}

int ph_finish(ph_encoder *e, ph_packet *out, char *error) {
  if (e->result < 0) {
    memcpy(error, e->error, PH_ERROR_SIZE);
    return -1;
  }
  out->data = e->packet->data;
  out->size = e->packet->size;
  out->key = e->packet->flags & AV_PKT_FLAG_KEY;
  return 0;
}

// The caller owns done_fd.
void ph_close(ph_encoder *e) {
  pthread_mutex_lock(&mutex);
  close_locked(e);
  pthread_mutex_unlock(&mutex);
}
