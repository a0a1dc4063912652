#include <cstdio>
#define CL __attribute__((target_clones("arch=x86-64-v4","arch=x86-64-v3","default")))
template<class T,int L> using vec [[gnu::vector_size(64)]] = T;
typedef float v16 __attribute__((vector_size(64)));
template <class T> [[gnu::always_inline]] inline T sum_t(const T* x, long n){ T s=0;
#pragma omp simd reduction(+:s)
 for(long i=0;i<n;i++) s+=x[i]*x[i]; return s;}
CL float sumf(const float*x,long n){return sum_t(x,n);}
template <class T> CL T sum2(const T* x,long n){return sum_t(x,n);}
CL void ax(float*y,const float*x,long n){ v16 a={}; for(long i=0;i<n;i+=16){ v16 b; __builtin_memcpy(&b,x+i,64); a+=b*b;} __builtin_memcpy(y,&a,64);}
int main(){ float a[100]; for(int i=0;i<100;i++)a[i]=i; float y[16]; ax(y,a,96); printf("%f %f %f\n",sumf(a,100),sum2(a,100),y[3]);}
